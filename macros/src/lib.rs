//! `#[functions]`: plain Rust functions become functions of nepa's scripts.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, GenericArgument, Ident, Item, ItemFn, ItemMod, Lit, LitInt, LitStr, Meta,
    Pat, PathArguments, Result, ReturnType, Token, Type, Visibility, parse::Parse as _, parse_macro_input,
};

/// Registers the public functions of a module with scripts, in their order.
///
/// ```ignore
/// #[functions]
/// mod methods {
///     use super::*;
///
///     /// The sum over one dimension, which vanishes.
///     #[script(name = "sum")]
///     pub fn sum_over(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
///         Ok(t.f_sum_dim_intlist(dim, false, None)?)
///     }
/// }
/// ```
///
/// The module gets a function `register(&mut Namespace)`. A function's doc comment is its documentation; its parameters
/// implement `Argument` (or are references to what does), its value `Output`, perhaps in a `Result`. Scripts know it by
/// its Rust name, unless `#[script(name = "…")]` gives another, as overloads and operators need. `#[script(get)]` makes
/// it a property that is read, `#[script(set)]` one that is assigned, `#[script(index)]` what `value[…]` means.
///
/// A function with `#[script(dims(1, 2, 3))]` has a `const D: usize` and stands for as many: scripts know `pool` as
/// `pool1d`, `pool2d` and `pool3d`. In its documentation `{D}` is the number, `{L}` are its dimensions (L, or H, W, or
/// D, H, W), and any other `{x}` is x once for each.
///
/// A parameter with `#[default(value)]` may be left out, or be given by its name in a map that comes last, as Python's
/// keyword arguments; `#[keyword(value)]` makes it one that is given by name alone. The value is a literal, an array of
/// such, or `()`.
#[proc_macro_attribute]
pub fn functions(_: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let module = parse_macro_input!(item as ItemMod);
    expand(module).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(mut module: ItemMod) -> Result<TokenStream> {
    let Some((_, items)) = &mut module.content else {
        return Err(Error::new_spanned(&module, "expected a module with its functions in braces"));
    };
    let mut registrations = Vec::new();
    for item in items.iter_mut() {
        if let Item::Fn(function) = item
            && matches!(function.vis, Visibility::Public(_))
        {
            let script = Script::take(&mut function.attrs)?;
            let parameters: Vec<Parameter> =
                function.sig.inputs.iter_mut().map(Parameter::of).collect::<Result<_>>()?;
            match script.dims.is_empty() {
                true => registrations.push(registration(function, &parameters, &script, None)?),
                false => {
                    for dims in &script.dims {
                        registrations.push(registration(function, &parameters, &script, Some(*dims))?);
                    }
                }
            }
        }
    }
    items.push(syn::parse_quote! {
        /// Registers the functions above.
        pub fn register(namespace: &mut crate::script::registry::Namespace<'_>) {
            #(#registrations)*
        }
    });
    Ok(quote!(#module))
}

/// What `#[script(…)]` says of a function.
#[derive(Default)]
struct Script {
    name: Option<String>,
    /// What Rhai puts before the names of getters and setters.
    prefix: &'static str,
    /// The numbers of dimensions that it is a function of.
    dims: Vec<usize>,
}

impl Script {
    /// Reads the attribute, and takes it away from the function.
    fn take(attributes: &mut Vec<Attribute>) -> Result<Self> {
        let mut script = Self::default();
        for attribute in attributes.iter().filter(|a| a.path().is_ident("script")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("name") {
                    script.name = Some(meta.value()?.parse::<LitStr>()?.value());
                } else if meta.path.is_ident("get") {
                    script.prefix = "get$";
                } else if meta.path.is_ident("set") {
                    script.prefix = "set$";
                } else if meta.path.is_ident("index") {
                    script.name = Some("index$get$".into());
                } else if meta.path.is_ident("dims") {
                    let list;
                    syn::parenthesized!(list in meta.input);
                    let numbers = list.parse_terminated(LitInt::parse, Token![,])?;
                    script.dims = numbers.iter().map(LitInt::base10_parse).collect::<Result<_>>()?;
                } else {
                    return Err(meta.error("expected name, get, set, index or dims"));
                }
                Ok(())
            })?;
        }
        attributes.retain(|a| !a.path().is_ident("script"));
        Ok(script)
    }
}

/// The code that registers one function, for so many dimensions if it is one of them.
fn registration(
    function: &ItemFn,
    parameters: &[Parameter],
    script: &Script,
    dims: Option<usize>,
) -> Result<TokenStream> {
    let ident = &function.sig.ident;
    let mut name = format!("{}{}", script.prefix, script.name.clone().unwrap_or_else(|| ident.to_string()));
    let mut doc = documentation(function)?;
    let mut called = quote!(self::#ident);
    if let Some(dims) = dims {
        name += &format!("{dims}d");
        doc = doc.iter().map(|line| of_dims(line, dims)).collect();
        called = quote!(self::#ident::<#dims>);
    }
    let (idents, types): (Vec<_>, Vec<_>) = parameters.iter().map(|p| (&p.ident, &p.owned)).unzip();
    let names = idents.iter().map(|ident| ident.to_string());
    let passed = parameters.iter().map(|p| {
        let ident = &p.ident;
        if p.borrowed { quote!(&#ident) } else { quote!(#ident) }
    });
    let (returned, fallible) = returned(&function.sig.output);
    let raised = if fallible { quote!(?) } else { quote!() };
    if parameters.iter().any(|p| p.default.is_some()) {
        let declared = parameters.iter().map(Parameter::declaration);
        let places = 0..idents.len();
        return Ok(quote! {
            {
                // In functions of their own: the compiler takes long for long ones.
                fn native(arguments: &crate::script::defaults::Arguments<'_>) -> crate::error::Result<rhai::Dynamic> {
                    #(let #idents = arguments.read::<#types>(#places)?;)*
                    let value = #called(#(#passed),*)#raised;
                    Ok(rhai::Dynamic::from(<#returned as crate::script::types::Output>::into_raw(value)))
                }
                #[inline(never)]
                fn register(namespace: &mut crate::script::registry::Namespace<'_>) {
                    let returns = <#returned as crate::types::Typed>::script_type();
                    let mut declared = crate::script::defaults::Declared::new(#name, &[#(#doc),*], returns);
                    #(#declared)*
                    namespace.add_with_defaults(declared, native);
                }
                register(namespace);
            }
        });
    }
    let raw: Vec<Ident> = idents.iter().map(|ident| format_ident!("raw_{ident}")).collect();
    let alone = format_ident!("register_{}{}", ident, dims.map_or(String::new(), |dims| dims.to_string()));
    Ok(quote! {
        #[inline(never)]
        fn #alone(namespace: &mut crate::script::registry::Namespace<'_>) {
        let function_name = namespace.error_name(#name);
        namespace.add(
            crate::script::registry::Signature {
                name: #name,
                doc: &[#(#doc),*],
                params: vec![#((#names, <#types as crate::types::Typed>::script_type())),*],
                returns: <#returned as crate::types::Typed>::script_type(),
                options: vec![#(<#types as crate::script::types::Argument>::options()),*],
            },
            move |call: rhai::NativeCallContext<'_>, #(#raw: <#types as crate::script::types::Argument>::Raw),*| {
                let given: &[Option<crate::script::values::Tensor>] = &[#(crate::script::registry::tensor_of(&#raw)),*];
                let body = || {
                    crate::script::confined::check(&function_name)?;
                    #(let #idents = <#types as crate::script::types::Argument>::read(#raw, &function_name)?;)*
                    Ok(<#returned as crate::script::types::Output>::into_raw(#called(#(#passed),*)#raised))
                };
                crate::script::registry::call_guarded(body, given, call.call_position())
            },
        );
        }
        #alone(namespace);
    })
}

/// A line of documentation, for so many dimensions.
fn of_dims(line: &str, dims: usize) -> String {
    let mut pieces = line.split('{');
    let mut text = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        match piece.split_once('}').filter(|(inside, _)| inside.chars().all(char::is_alphanumeric)) {
            Some(("D", after)) => text += &format!("{dims}{after}"),
            Some(("L", after)) => text += &format!("{}{after}", ["L", "H, W", "D, H, W"][dims - 1]),
            Some((each, after)) => text += &format!("{}{after}", vec![each; dims].join(", ")),
            // A map of options.
            None => text += &format!("{{{piece}"),
        }
    }
    text
}

/// The lines of a function's doc comment.
fn documentation(function: &ItemFn) -> Result<Vec<String>> {
    let line = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    };
    let lines: Vec<String> = function.attrs.iter().filter_map(line).collect();
    match lines.is_empty() {
        true => Err(Error::new_spanned(&function.sig, "a function of scripts needs a doc comment")),
        false => Ok(lines),
    }
}

/// A parameter of a function.
struct Parameter {
    ident: Ident,
    /// Its type, of a reference what it refers to.
    owned: TokenStream,
    borrowed: bool,
    /// The value that it has where it is left out, as a `Dynamic`.
    default: Option<TokenStream>,
    /// Whether it is given by name alone.
    by_name: bool,
}

impl Parameter {
    fn of(argument: &mut FnArg) -> Result<Self> {
        let FnArg::Typed(argument) = argument else {
            return Err(Error::new_spanned(argument, "a function of scripts has no self"));
        };
        let Pat::Ident(pattern) = argument.pat.as_ref() else {
            return Err(Error::new_spanned(&argument.pat, "a parameter of a function of scripts needs a name"));
        };
        let ident = pattern.ident.clone();
        let (mut default, mut by_name) = (None, false);
        for attribute in &argument.attrs {
            by_name |= attribute.path().is_ident("keyword");
            if attribute.path().is_ident("default") || attribute.path().is_ident("keyword") {
                default = Some(dynamic(&attribute.parse_args::<Expr>()?)?);
            }
        }
        argument.attrs.retain(|a| !a.path().is_ident("default") && !a.path().is_ident("keyword"));
        Ok(match argument.ty.as_ref() {
            Type::Reference(reference) => {
                let inner = &reference.elem;
                let is = |name| matches!(inner.as_ref(), Type::Path(path) if path.path.is_ident(name));
                let owned = match (is("str"), is("Path")) {
                    (true, _) => quote!(rhai::ImmutableString),
                    (_, true) => quote!(std::path::PathBuf),
                    _ => quote!(#inner),
                };
                Self { ident, owned, borrowed: true, default, by_name }
            }
            owned => Self { ident, owned: quote!(#owned), borrowed: false, default, by_name },
        })
    }

    /// What the registry is told of it.
    fn declaration(&self) -> TokenStream {
        let (name, of, by_name) = (self.ident.to_string(), &self.owned, self.by_name);
        let default = match &self.default {
            Some(value) => quote!(Some(#value)),
            None => quote!(None),
        };
        quote! {
            declared.add::<#of>(#name, #default, #by_name);
        }
    }
}

/// The script's value that a literal, an array of such, or `()` stands for.
fn dynamic(value: &Expr) -> Result<TokenStream> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
            Ok(quote!(rhai::Dynamic::from(rhai::ImmutableString::from(#text))))
        }
        Expr::Lit(ExprLit { lit: Lit::Int(n), .. }) => Ok(quote!(rhai::Dynamic::from_int(#n))),
        Expr::Lit(ExprLit { lit: Lit::Float(x), .. }) => Ok(quote!(rhai::Dynamic::from_float(#x))),
        Expr::Lit(ExprLit { lit: Lit::Bool(b), .. }) => Ok(quote!(rhai::Dynamic::from_bool(#b))),
        Expr::Unary(negative) => match negative.expr.as_ref() {
            Expr::Lit(ExprLit { lit: Lit::Float(_), .. }) => Ok(quote!(rhai::Dynamic::from_float(#negative))),
            _ => Ok(quote!(rhai::Dynamic::from_int(#negative))),
        },
        Expr::Array(array) => {
            let items: Vec<TokenStream> = array.elems.iter().map(dynamic).collect::<Result<_>>()?;
            Ok(quote!(rhai::Dynamic::from_array(vec![#(#items),*])))
        }
        Expr::Tuple(unit) if unit.elems.is_empty() => Ok(quote!(rhai::Dynamic::UNIT)),
        other => Err(Error::new_spanned(other, "expected a literal, an array of literals or ()")),
    }
}

/// The type of a function's value, and whether it comes in a `Result`.
fn returned(output: &ReturnType) -> (TokenStream, bool) {
    let ReturnType::Type(_, returned) = output else { return (quote!(()), false) };
    if let Type::Path(path) = returned.as_ref()
        && let Some(last) = path.path.segments.last()
        && last.ident == "Result"
        && let PathArguments::AngleBracketed(arguments) = &last.arguments
        && let Some(GenericArgument::Type(inner)) = arguments.args.first()
    {
        return (quote!(#inner), true);
    }
    (quote!(#returned), false)
}
