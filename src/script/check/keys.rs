//! Whether the options that a call is given exist, as far as they are written out.

use super::division;
use super::tree::{Call, Imported, Script};
use super::variables::Variables;
use crate::error::Diagnostic;
use crate::options::{OptionDoc, known_keys};
use crate::script::Host;
use rhai::{Expr, Ident, Position};

/// What is wrong with the keys of a call's options, and where; the words are those of a run.
pub fn judge(host: &Host, call: &Call, script: &Script) -> Option<(Diagnostic, Position)> {
    let Taken { of, at, options, .. } = options_of(host, call, script)?;
    let mut given = literal_entries(call.expression.args.get(at)?, &script.variables);
    // A run sees them in this order.
    given.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let names: Vec<&str> = options.iter().map(|option| option.name.as_str()).collect();
    let diagnostic = known_keys("option", &of, given.iter().map(|(key, _)| key.as_str()), &names).err()?;
    let position = given.iter().find(|(key, _)| Some(key.as_str()) == diagnostic.key.as_deref())?.0.pos;
    Some((diagnostic, position))
}

/// Divisions of integers among the options of a call that are floats: `lr: 1 / 10`.
pub fn judge_divisions(host: &Host, call: &Call, script: &Script) -> Vec<(Diagnostic, Position)> {
    let Some(Taken { at, options, .. }) = options_of(host, call, script) else { return Vec::new() };
    let Some(given) = call.expression.args.get(at) else { return Vec::new() };
    let is_float = |key: &str| options.iter().any(|option| option.name == key && option.of.takes("float"));
    let floats = literal_entries(given, &script.variables).into_iter().filter(|(key, _)| is_float(key.as_str()));
    floats.filter_map(|(_, value)| division::judge_float(value, &script.variables)).collect()
}

/// Options that a call is given, as far as they are written out.
pub struct GivenOptions<'a> {
    /// How errors call the function.
    pub of: String,
    /// Each one's key, its value, and what is declared under the key.
    pub options: Vec<(&'a Ident, &'a Expr, Vec<&'a OptionDoc>)>,
}

/// The options that a call is given; none of a function whose arguments may come by name.
pub fn given_options<'a>(host: &'a Host, call: &'a Call, script: &'a Script) -> Option<GivenOptions<'a>> {
    let Taken { of, at, options, .. } = options_of(host, call, script).filter(|taken| !taken.by_name)?;
    let given = literal_entries(call.expression.args.get(at)?, &script.variables);
    let declared = |key: &Ident| options.iter().copied().filter(|option| option.name == key.as_str()).collect();
    Some(GivenOptions { of, options: given.into_iter().map(|(key, value)| (key, value, declared(key))).collect() })
}

/// The options of a function.
struct Taken<'a> {
    /// How errors call the function.
    of: String,
    /// Which argument of the call they are.
    at: usize,
    options: Vec<&'a OptionDoc>,
    /// Whether they are arguments, given by name.
    by_name: bool,
}

/// The options of the function that a call reaches, where they are known.
fn options_of<'a>(host: &'a Host, call: &Call, script: &Script) -> Option<Taken<'a>> {
    let name = call.expression.name.as_str();
    let qualified = !call.expression.namespace.is_empty();
    let namespace = if qualified { call.expression.namespace.root() } else { "" };
    let reference = host.reference();
    let before = usize::from(call.is_method);
    let passed = call.expression.args.len() + before;
    if let Some(modules) = script.modules.get(namespace) {
        let has = |module: &&Imported| module.functions.iter().any(|(n, params)| n == name && *params == passed);
        let module = modules.iter().find(has)?;
        let name_of_file = host.sources.library_name(module.file.as_deref()?);
        let path = name_of_file.strip_suffix(".rhai")?;
        let of = format!("{}::{name}", path.rsplit('/').next()?);
        // A function that passes its options on does not tell their faults in its own name.
        let text = host.sources.text(module.file.as_deref()?)?;
        let tells = ["options(", "name: ", "let who = "].iter().any(|by| text.contains(&format!("{by}\"{of}\"")));
        tells.then_some(())?;
        let functions = reference.stdlib.iter().filter(|m| m.path == path).flat_map(|m| &m.functions);
        let options = functions.filter(|f| f.name == name && f.params.len() == passed).flat_map(|f| &f.options);
        return Some(Taken { of, at: passed.checked_sub(1)?, options: options.collect(), by_name: false })
            .filter(|t| !t.options.is_empty());
    }
    let named = reference.functions.iter().filter(|f| {
        f.name == name && f.takes(passed) && f.qualified == qualified && (!qualified || f.group == namespace)
    });
    // A method's type is unknown: any that has the name may be meant.
    let named: Vec<_> = named.collect();
    if let Some(f) = named.iter().find(|f| !f.optional.is_empty()) {
        // What comes by place before the map cannot come by name too.
        let options = f.optional.iter().skip(passed.checked_sub(1)?).map(|o| &o.option).collect();
        let of = if qualified { format!("{namespace}::{name}") } else { name.to_string() };
        return Some(Taken { of, at: passed.checked_sub(1 + before)?, options, by_name: true });
    }
    let taking: Vec<_> = named.into_iter().filter(|f| f.options_at.is_some()).collect();
    let at = taking.first()?.options_at?.checked_sub(before)?;
    let of = if qualified { format!("{namespace}::{name}") } else { name.to_string() };
    Some(Taken { of, at, options: taking.iter().flat_map(|f| &f.options).collect(), by_name: false })
}

/// The entries that a map is written with: a literal, a variable that holds one, one that is picked from a table of them,
/// or a sum of such.
fn literal_entries<'a>(value: &'a Expr, variables: &'a Variables) -> Vec<(&'a Ident, &'a Expr)> {
    match variables.resolve(value) {
        Expr::Map(map, _) => map.0.iter().map(|(name, value)| (name, value)).collect(),
        Expr::FnCall(sum, _) if sum.name == "+" => {
            sum.args.iter().flat_map(|part| literal_entries(part, variables)).collect()
        }
        Expr::Index(link, ..) | Expr::Dot(link, ..) => picked(&link.lhs, &link.rhs, variables)
            .into_iter()
            .flat_map(|map| literal_entries(map, variables))
            .collect(),
        _ => Vec::new(),
    }
}

/// What `table[key]` or `table.key` can be: the one that is named, or any where all are maps.
fn picked<'a>(table: &'a Expr, key: &Expr, variables: &'a Variables) -> Vec<&'a Expr> {
    let Expr::Map(table, _) = variables.resolve(table) else { return Vec::new() };
    let name = match key {
        Expr::StringConstant(name, _) => Some(name.as_str()),
        Expr::Property(property, _) => Some(property.2.as_str()),
        // A method's result.
        Expr::MethodCall(..) => return Vec::new(),
        _ => None,
    };
    let is_map = |value: &Expr| matches!(variables.resolve(value), Expr::Map(..));
    match name {
        Some(name) => table.0.iter().filter(|(key, _)| key.name == name).map(|(_, value)| value).collect(),
        None if table.0.iter().all(|(_, value)| is_map(value)) => table.0.iter().map(|(_, value)| value).collect(),
        None => Vec::new(),
    }
}
