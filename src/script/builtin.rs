//! The language's own functions, as `nepa api` and errors show them.

use std::any::TypeId;

/// A function of the language's own.
#[derive(Debug, Clone)]
pub struct Builtin {
    /// Its name.
    pub name: String,
    /// Names and types of its parameters, in a script user's words.
    pub params: Vec<(String, String)>,
    /// The type of its value.
    pub returns: String,
    /// Its documentation.
    pub doc: String,
}

impl Builtin {
    /// What Rhai tells of it.
    pub fn of(info: &rhai::FuncInfo) -> Self {
        let of = &info.metadata;
        let param = |i: usize| match of.params_info.get(i).map(|info| info.split_once(": ")) {
            Some(Some((name, typ))) => (name.trim_start_matches('_').to_string(), plain_type(typ)),
            _ => (format!("x{i}"), type_of_id(of.param_types.get(i).copied())),
        };
        let lines = of.comments.iter().flat_map(|comment| comment.lines());
        let doc = lines.map(|line| line.trim_start().trim_start_matches('/')).map(|l| l.strip_prefix(' ').unwrap_or(l));
        Self {
            name: of.name.to_string(),
            params: (0..of.num_params).map(param).collect(),
            returns: plain_type(&of.return_type),
            // The examples are Rhai's own, and stand below a heading.
            doc: doc.take_while(|line| !line.starts_with("# ")).collect::<Vec<_>>().join("\n").trim_end().to_string(),
        }
    }

    /// The type of its first parameter.
    pub fn first(&self) -> Option<&str> {
        self.params.first().map(|(_, of)| of.as_str())
    }

    /// As a script writes it.
    pub fn signature(&self) -> String {
        let params: Vec<String> = self.params.iter().map(|(name, of)| format!("{name}: {of}")).collect();
        let returns = match self.returns.as_str() {
            "()" | "" => String::new(),
            of => format!(" -> {of}"),
        };
        format!("{}({}){returns}", self.name, params.join(", "))
    }
}

/// A type of Rust's in a script user's words.
fn plain_type(rust: &str) -> String {
    let rust = rust.replace("RhaiResultOf < ", "RhaiResultOf<").replace(" >", ">");
    let inner = rust.trim().trim_start_matches('&').trim_start_matches("mut ");
    let inner = inner.strip_prefix("RhaiResultOf<").and_then(|of| of.strip_suffix('>')).unwrap_or(inner);
    match inner.rsplit("::").next().unwrap_or(inner) {
        "INT" | "i64" => "int",
        "FLOAT" | "f64" => "float",
        "Array" => "array",
        "Blob" => "blob",
        "Map" => "map",
        "FnPtr" => "function",
        "Dynamic" | "RhaiResult" | "?" => "any",
        "ImmutableString" | "str" | "String" => "string",
        "ExclusiveRange" | "InclusiveRange" => "range",
        other => other,
    }
    .to_string()
}

/// The same, of a parameter that Rhai knows no name of.
fn type_of_id(id: Option<TypeId>) -> String {
    match id {
        Some(id) if id == TypeId::of::<i64>() => "int",
        Some(id) if id == TypeId::of::<f64>() => "float",
        Some(id) if id == TypeId::of::<char>() => "char",
        Some(id) if id == TypeId::of::<rhai::ImmutableString>() => "string",
        _ => "any",
    }
    .to_string()
}
