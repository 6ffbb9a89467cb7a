//! The reference of everything registered with the engine: what `nepa api` prints, what errors
//! quote, what `nepa check` resolves against.

use super::builtin::Builtin;
use super::habits;
use crate::error::{Diagnostic, did_you_mean, nearest};
use crate::options::OptionDoc;
use std::collections::BTreeSet;
use std::fmt::Write;

/// A registered function.
#[derive(Debug, Clone)]
pub struct FnDoc {
    /// The namespace (`nn`), or the type whose method it is (`Tensor`), or empty.
    pub group: &'static str,
    /// Whether a script writes `group::name(…)`.
    pub qualified: bool,
    /// As registered: operators as such, getters as `get$name`.
    pub name: &'static str,
    /// Parameter names and types, in a script user's words.
    pub params: Vec<(&'static str, String)>,
    /// The type of its value.
    pub returns: String,
    /// Its documentation, line by line.
    pub doc: Vec<&'static str>,
    /// The options that it takes as a map.
    pub options: Vec<OptionDoc>,
    /// Which parameter that map is.
    pub options_at: Option<usize>,
    /// Of a function with defaults, what is known of each parameter; of others empty.
    pub optional: Vec<Optional>,
}

/// How a parameter of a function with defaults may be given.
#[derive(Debug, Clone)]
pub struct Optional {
    /// Its name, type and default, as those of an option.
    pub option: OptionDoc,
    /// Whether it is given by name alone.
    pub by_name: bool,
}

impl FnDoc {
    /// As a script writes it: `nn::linear(inputs: int, outputs: int)`, `Tensor.sum(dim: int)`.
    pub fn signature(&self) -> String {
        let typed = |(name, typ): &(&str, String)| {
            let optional = self.optional.iter().find(|o| o.option.name == **name);
            let default = optional.and_then(|o| o.option.default.as_ref());
            let shown = default.map_or(String::new(), |default| format!(" = {default}"));
            format!("{}{name}: {typ}{shown}", if optional.is_some_and(|o| o.by_name) { "#" } else { "" })
        };
        let returns = if self.returns == "()" { String::new() } else { format!(" -> {}", self.returns) };
        if let Some(property) = self.name.strip_prefix("get$") {
            return format!("{}.{property}{returns}", self.params[0].1);
        }
        if let Some(property) = self.name.strip_prefix("set$") {
            return format!("{}.{property} = {}", self.params[0].1, self.params[1].1);
        }
        if self.name == "index$get$" {
            return format!("{}[{}]{returns}", self.params[0].1, typed(&self.params[1]));
        }
        if !self.name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return match self.params.len() {
                1 => format!("{}{}{returns}", self.name, self.params[0].1),
                _ => format!("{} {} {}{returns}", self.params[0].1, self.name, self.params[1].1),
            };
        }
        let is_method = !self.qualified && self.params.first().is_some_and(|p| p.1 == self.group);
        if is_method {
            let rest: Vec<String> = self.params[1..].iter().map(typed).collect();
            return format!("{}.{}({}){returns}", self.group, self.name, rest.join(", "));
        }
        let all: Vec<String> = self.params.iter().map(typed).collect();
        let namespace = if self.qualified { format!("{}::", self.group) } else { String::new() };
        format!("{namespace}{}({}){returns}", self.name, all.join(", "))
    }

    /// Whether it may be called with so many arguments.
    pub fn takes(&self, count: usize) -> bool {
        match self.optional.is_empty() {
            true => self.params.len() == count,
            false => count <= self.most() && (count >= self.least() || count >= 2),
        }
    }

    /// Its documentation as one text.
    pub fn text(&self) -> String {
        let lines: Vec<&str> = self.doc.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        lines.join("\n")
    }

    /// The number of arguments that must be given, some of them perhaps by name.
    pub fn least(&self) -> usize {
        self.optional.iter().filter(|o| o.option.default.is_none()).count()
    }

    /// The number of arguments that may be given, with the map of named ones.
    fn most(&self) -> usize {
        self.optional.iter().filter(|o| !o.by_name).count() + 1
    }

    /// The name without Rhai's marks.
    pub fn plain_name(&self) -> &str {
        self.name.strip_prefix("get$").or(self.name.strip_prefix("set$")).unwrap_or(self.name)
    }

    /// The name with its namespace, or the type whose method it is: `nn::linear`, `Tensor.sum`.
    pub fn full_name(&self) -> String {
        match (self.qualified, self.group) {
            (true, group) => format!("{group}::{}", self.plain_name()),
            (false, "") => self.plain_name().to_string(),
            (false, group) => format!("{group}.{}", self.plain_name()),
        }
    }
}

/// A function of a script of the standard library.
#[derive(Debug, Clone)]
pub struct ScriptFnDoc {
    /// The function's name.
    pub name: String,
    /// Names of its parameters.
    pub params: Vec<String>,
    /// Its documentation.
    pub doc: String,
    /// The options that it takes: what the function of its name and `_options` declares.
    pub options: Vec<OptionDoc>,
}

/// A script of the standard library.
#[derive(Debug, Clone)]
pub struct ScriptModuleDoc {
    /// As imported: `std/pretrain`.
    pub path: String,
    /// Its header comment.
    pub about: String,
    /// Its public functions, by name.
    pub functions: Vec<ScriptFnDoc>,
}

/// Everything a script can call.
#[derive(Default)]
pub struct Reference {
    /// Every registered function, in the order of registration.
    pub functions: Vec<FnDoc>,
    /// What each namespace or type is about, in the order of presentation.
    pub groups: Vec<(&'static str, &'static str)>,
    /// Rhai's own functions.
    pub builtin: Vec<Builtin>,
    /// The standard library's scripts.
    pub stdlib: Vec<ScriptModuleDoc>,
}

impl Reference {
    /// The built-in namespaces.
    pub fn module_names(&self) -> impl Iterator<Item = &'static str> + Clone + '_ {
        self.groups.iter().map(|g| g.0).filter(|g| self.functions.iter().any(|f| f.qualified && f.group == *g))
    }

    /// Message and hint for a call that fits no function; `signature` is Rhai's, for example
    /// `nn::linera (i64, i64)`.
    pub fn explain_missing(&self, signature: &str) -> Diagnostic {
        let (name, arguments) = match signature.split_once('(') {
            Some((name, rest)) => (name.trim(), rest.strip_suffix(')').unwrap_or(rest).trim()),
            None => (signature.trim(), ""),
        };
        if name.starts_with("anon$") {
            let count = if arguments.is_empty() { 0 } else { arguments.split(", ").count() };
            return Diagnostic::new(format!(
                "a closure was called with {count} argument{} ({arguments}), but takes a different number of them",
                if count == 1 { "" } else { "s" }
            ))
            .hint("its parameters are between the bars: |a, b| …");
        }
        let arguments = arguments
            .replace("&str | ImmutableString | String", "string")
            .replace("i64", "int")
            .replace("f64", "float");
        let (namespace, short) = match name.rsplit_once("::") {
            Some((namespace, short)) => (Some(namespace), short),
            None => (None, name),
        };
        if !short.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return self.explain_operator(short, &arguments);
        }
        let here = |f: &&FnDoc| match namespace {
            Some(namespace) => f.qualified && f.group == namespace,
            None => !f.qualified,
        };
        let mut same: Vec<String> =
            self.functions.iter().filter(here).filter(|f| f.name == short).map(FnDoc::signature).collect();
        // Of methods that several types have, those of this one.
        let receiver = format!("{}.", arguments.split(", ").next().unwrap_or_default());
        let is_of_receiver = same.iter().any(|signature| signature.starts_with(&receiver));
        if is_of_receiver {
            same.retain(|signature| signature.starts_with(&receiver));
        }
        let own = self.builtin.iter().filter(|f| namespace.is_none() && f.name == short);
        if !same.is_empty() || own.clone().next().is_some() {
            let hint = habits::of_function(short).filter(|_| !is_of_receiver).map(String::from);
            let hint = hint.or_else(|| self.other_argument(short, &arguments)).unwrap_or_else(|| {
                let own = own.filter(|_| same.is_empty()).map(Builtin::signature);
                let mut all: Vec<String> = same.iter().cloned().chain(own).collect();
                all.dedup();
                format!("it is called as: {}", all.join("  or  "))
            });
            return Diagnostic::new(format!("no `{name}` takes ({arguments})")).hint(hint);
        }
        let receiver = arguments.split(", ").next().filter(|of| !of.is_empty());
        let mut unknown = self.unknown_function(namespace, short, &[], receiver);
        if !arguments.is_empty() {
            unknown.message += &format!(" (called with {arguments})");
        }
        unknown
    }

    /// What to give a function of one argument instead of such: it takes floats, or tensors.
    fn other_argument(&self, name: &str, arguments: &str) -> Option<String> {
        let ours = self.functions.iter().filter(|f| !f.qualified && f.name == name);
        let first: Vec<&str> = ours.filter_map(|f| f.params.first()).map(|(_, of)| of.as_str()).collect();
        let is_own = |of: &str| self.builtin.iter().any(|f| f.name == name && f.first() == Some(of));
        match arguments {
            "int" if is_own("float") => Some(format!("it takes a float: {name}(64.0), or {name}(x.to_float())")),
            "array" if first.contains(&"Tensor") => {
                Some(format!("it takes a tensor: tensor(list).{name}().item() is a number"))
            }
            "float, float" | "float, int" | "int, int" if name == "pow" => {
                Some("a power of numbers is written 2.0 ** 3.0".into())
            }
            _ => None,
        }
    }

    /// Message and hint for an operator between values that it is not for.
    fn explain_operator(&self, operator: &str, arguments: &str) -> Diagnostic {
        let wrong = Diagnostic::new(format!("no `{operator}` takes ({arguments})"));
        let holds = |of: &str| arguments.split(", ").any(|argument| argument == of);
        let orders = ["<", "<=", ">", ">="].contains(&operator);
        if holds("()") && orders {
            return wrong.hint(
                "() is nothing, and neither less nor greater: ask `x == ()` first, or begin with an infinity, as in \
                 let best = -1.0 / 0.0;",
            );
        }
        if holds("()") {
            return wrong.hint(
                "() is nothing: what a new key of a map holds, or a function without a result gives; \
                 `x ?? 0` is 0 where x is ()",
            );
        }
        if holds("bool") && orders {
            return wrong.hint("a chain of comparisons is written a < b && b < c");
        }
        if holds("string") && (holds("int") || holds("float")) {
            return wrong.hint("a text becomes a number by parse_int(…) or parse_float(…)");
        }
        let operators = self.functions.iter().filter(|f| !f.qualified && f.name == operator);
        // Those that take one of the values, as a tensor.
        let fit = operators.filter(|f| f.params.iter().any(|(_, of)| holds(of) && of != "int" && of != "float"));
        let fit: Vec<String> = fit.map(FnDoc::signature).collect();
        match fit.is_empty() {
            true => wrong,
            false => wrong.hint(format!("it is called as: {}", fit.join("  or  "))),
        }
    }

    /// Message and hint for a name that no function has; `own` are the script's functions, `receiver` the type of the
    /// first argument where it is known: what that type has is meant first.
    pub fn unknown_function(
        &self,
        namespace: Option<&str>,
        short: &str,
        own: &[String],
        receiver: Option<&str>,
    ) -> Diagnostic {
        let name = match namespace {
            Some(namespace) => format!("{namespace}::{short}"),
            None => short.to_string(),
        };
        let here = self.functions.iter().filter(|f| match namespace {
            Some(namespace) => f.qualified && f.group == namespace,
            None => !f.qualified && f.name.starts_with(|c: char| c.is_alphabetic()) && !f.name.contains('$'),
        });
        let builtin = self.builtin.iter().filter(|_| namespace.is_none());
        let takes = |params: Option<&str>| receiver.is_some() && params == receiver;
        let of_receiver = here.clone().filter(|f| takes(f.params.first().map(|p| p.1.as_str()))).map(|f| f.name);
        let of_receiver = of_receiver.chain(builtin.clone().filter(|b| takes(b.first())).map(|b| b.name.as_str()));
        let all = here.map(|f| f.name).chain(builtin.map(|b| b.name.as_str()));
        let near = did_you_mean(short, of_receiver);
        let near = match near.is_empty() {
            true => did_you_mean(short, all.chain(own.iter().map(String::as_str))),
            false => near,
        };
        // The same word in another place: `linear` for `nn::linear`.
        let elsewhere = self.functions.iter().find(|f| f.name == short).map(|f| format!("there is {}", f.signature()));
        let habit = habits::of_function(short).map(String::from);
        let hint = habit.or(elsewhere).or_else(|| namespace.map(|n| format!("`nepa api {n}` lists what {n} has")));
        let near = if habits::of_function(short).is_some() { String::new() } else { near };
        Diagnostic { hint, ..Diagnostic::new(format!("unknown function `{name}`{near}")) }
    }

    /// Message and hint for Rhai's complaint about a property.
    pub fn explain_property(&self, text: &str) -> Diagnostic {
        // "Unknown property 'x' - a getter is not registered for type 'Batch'"
        let mut quoted = text.split('\'').skip(1).step_by(2);
        let (Some(property), Some(typ)) = (quoted.next(), quoted.next()) else { return Diagnostic::new(text) };
        let typ = typ.rsplit("::").next().unwrap_or(typ);
        let of_type: Vec<&FnDoc> =
            self.functions.iter().filter(|f| !f.qualified && f.params.first().is_some_and(|p| p.1 == typ)).collect();
        let getters: Vec<&str> = of_type.iter().filter_map(|f| f.name.strip_prefix("get$")).collect();
        let hint = match of_type.iter().find(|f| f.name == property) {
            Some(method) => Some(format!("it is a method: {}", method.signature())),
            None if getters.is_empty() => None,
            None => Some(format!("its properties are: {}", getters.join(", "))),
        };
        let near = did_you_mean(property, getters);
        Diagnostic { hint, ..Diagnostic::new(format!("{typ} has no property `{property}`{near}")) }
    }

    /// The whole reference, or what matches `query`: a group, a function, a stdlib module.
    pub fn print(&self, query: Option<&str>) -> Result<String, String> {
        let mut out = String::new();
        match query {
            None => {
                for (group, about) in &self.groups {
                    self.print_group(group, about, &mut out);
                }
                for module in &self.stdlib {
                    print_script_module(module, &mut out);
                }
            }
            Some(query) => {
                let group = if query == "globals" { "" } else { query };
                if let Some((group, about)) = self.groups.iter().find(|g| g.0 == group) {
                    self.print_group(group, about, &mut out);
                } else if let Some(module) =
                    self.stdlib.iter().find(|m| m.path == query || m.path.strip_prefix("std/") == Some(query))
                {
                    print_script_module(module, &mut out);
                } else {
                    let short = |f: &&FnDoc| f.full_name() == query || f.plain_name() == query;
                    let mut last = None;
                    for f in self.functions.iter().filter(short) {
                        self.print_function(f, &mut last, &mut out);
                    }
                    for module in &self.stdlib {
                        let stem = module.path.rsplit('/').next().unwrap_or_default();
                        for f in &module.functions {
                            if f.name == query || format!("{stem}::{}", f.name) == query {
                                print_script_function(&module.path, f, &mut out);
                            }
                        }
                    }
                    self.print_builtin(query, &mut out);
                }
                if out.is_empty() {
                    let names = self.all_names();
                    let near = nearest(query, names.iter().map(String::as_str));
                    let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
                    return Err(format!("nothing is called `{query}`{near}"));
                }
            }
        }
        Ok(out)
    }

    fn all_names(&self) -> Vec<String> {
        let functions = self.functions.iter().flat_map(|f| [f.full_name(), f.plain_name().to_string()]);
        let groups = self.groups.iter().map(|g| g.0.to_string());
        let modules = self
            .stdlib
            .iter()
            .flat_map(|m| std::iter::once(m.path.clone()).chain(m.functions.iter().map(|f| f.name.clone())));
        let builtin = self.builtin.iter().map(|f| f.name.clone());
        functions.chain(groups).chain(modules).chain(builtin).collect()
    }

    /// Rhai's own functions of a name: their signatures, and what each of them does that says something else.
    pub fn print_builtin(&self, name: &str, out: &mut String) {
        let own: Vec<&Builtin> = self.builtin.iter().filter(|f| f.name == name).collect();
        for doc in own.iter().map(|f| f.doc.as_str()).collect::<BTreeSet<_>>() {
            let mut signatures: Vec<String> = own.iter().filter(|f| f.doc == doc).map(|f| f.signature()).collect();
            signatures.dedup();
            let _ = writeln!(out, "{}", signatures.join("\n"));
            let text = format!("Rhai's own. {doc}");
            for line in text.trim_end().lines() {
                let _ = writeln!(out, "{}", format!("    {line}").trim_end());
            }
            let _ = writeln!(out);
        }
    }

    fn print_group(&self, group: &str, about: &str, out: &mut String) {
        let title = if group.is_empty() { "globals" } else { group };
        let _ = writeln!(out, "== {title} ==\n{about}\n");
        let mut last = None;
        for f in self.functions.iter().filter(|f| f.group == group) {
            self.print_function(f, &mut last, out);
        }
    }

    /// One function; overloads with the same text and options as the one before come under those.
    fn print_function<'a>(&'a self, f: &'a FnDoc, last: &mut Option<&'a FnDoc>, out: &mut String) {
        let _ = writeln!(out, "{}", f.signature());
        let before = last.replace(f);
        if before.is_some_and(|b| b.full_name() == f.full_name() && b.doc == f.doc && b.options == f.options) {
            let _ = writeln!(out, "    (as above)\n");
            return;
        }
        for line in f.text().lines() {
            let _ = writeln!(out, "    {line}");
        }
        // The configuration of a model is that of its parts too: told once. Types, defaults and words must be the same.
        match self.functions.iter().find(|first| first.options == f.options) {
            Some(first) if !f.options.is_empty() && first.full_name() != f.full_name() => {
                let _ = writeln!(out, "    Options: those of {}", first.full_name());
            }
            _ => print_options(&f.options, out),
        }
        let _ = writeln!(out);
    }
}

fn print_options(options: &[OptionDoc], out: &mut String) {
    if !options.is_empty() {
        let _ = writeln!(out, "    Options:");
    }
    for option in options {
        print_option(option, out);
    }
}

fn print_option(option: &OptionDoc, out: &mut String) {
    let default = option.default.as_ref().map_or(String::new(), |default| format!(" = {default}"));
    let _ = writeln!(out, "      {}: {}{default}\n          {}", option.name, option.of, option.doc);
}

fn print_script_module(module: &ScriptModuleDoc, out: &mut String) {
    let _ = writeln!(out, "== {} ==\n{}\n", module.path, module.about.trim());
    for f in &module.functions {
        print_script_function(&module.path, f, out);
    }
}

fn print_script_function(path: &str, f: &ScriptFnDoc, out: &mut String) {
    let stem = path.rsplit('/').next().unwrap_or(path);
    let _ = writeln!(out, "{stem}::{}({})", f.name, f.params.join(", "));
    for line in f.doc.lines() {
        let _ = writeln!(out, "    {line}");
    }
    print_options(&f.options, out);
    let _ = writeln!(out);
}
