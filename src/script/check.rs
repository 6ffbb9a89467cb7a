//! `nepa check`: resolves every import and function of a recipe without running it.

use super::{Host, ast};
use crate::error::{Diagnostic, Result, did_you_mean};
use crate::script::params::{self, Declared};
use rhai::{AST, ASTNode, EvalAltResult, Expr, FnCallExpr, Position, Stmt};
use std::collections::{HashMap, HashSet};

/// Something that would fail when it is reached.
pub struct Problem {
    /// What is wrong, and what could be meant or done.
    pub diagnostic: Diagnostic,
    /// The script it is in.
    pub file: String,
    /// Line and column.
    pub position: Position,
}

/// What a recipe consists of.
#[derive(Default)]
pub struct Checked {
    /// The recipe and every script that it imports.
    pub files: Vec<String>,
    /// Function calls resolved.
    pub calls: usize,
    /// Parameters declared in any of the scripts.
    pub params: Vec<Declared>,
    /// What would fail.
    pub problems: Vec<Problem>,
    /// Keys of maps in any of the scripts: a map's function may be called like a method.
    keys: HashSet<String>,
}

/// Names and numbers of parameters of a script's own functions.
type Functions = Vec<(String, usize)>;

/// A script, and what its calls may reach.
struct Script {
    file: String,
    ast: AST,
    own: Functions,
    /// Functions by the alias of their module.
    modules: HashMap<String, Functions>,
}

/// Checks a compiled script and everything that it imports.
pub fn check(host: &Host, ast: &AST, file: &str) -> Result<Checked, Box<EvalAltResult>> {
    let mut checked = Checked::default();
    let mut scripts = Vec::new();
    visit(host, ast, file, &mut checked, &mut scripts)?;
    // Once the keys of all scripts are known.
    for script in &scripts {
        judge_calls(host, script, &mut checked);
    }
    Ok(checked)
}

/// Collects a script and those that it imports; gives what an importing script can call.
fn visit(
    host: &Host,
    ast: &AST,
    file: &str,
    checked: &mut Checked,
    scripts: &mut Vec<Script>,
) -> Result<Functions, Box<EvalAltResult>> {
    checked.files.push(file.to_string());
    let own: Functions = ast.iter_functions().map(|f| (f.name.to_string(), f.params.len())).collect();
    let text = host.sources.text(file).unwrap_or_default();
    match params::scan(ast, file, &text) {
        Ok(found) => checked.params.extend(found),
        Err((diagnostic, position)) => checked.problems.push(Problem { diagnostic, file: file.into(), position }),
    }

    // Imports first: their aliases are needed to resolve calls.
    let mut imports: Vec<(String, String, Position)> = Vec::new();
    let mut computed: Vec<String> = Vec::new();
    ast::walk(ast, &mut |path: &[ASTNode]| {
        match path.last() {
            Some(ASTNode::Stmt(Stmt::Import(import, position))) => match &import.0 {
                Expr::StringConstant(target, _) => {
                    imports.push((import.1.name.to_string(), target.to_string(), *position));
                }
                _ => computed.push(import.1.name.to_string()),
            },
            Some(ASTNode::Expr(Expr::Map(map, _))) => {
                checked.keys.extend(map.0.iter().map(|(key, _)| key.name.to_string()));
            }
            Some(ASTNode::Expr(Expr::Property(property, _))) => {
                checked.keys.insert(property.2.to_string());
            }
            _ => {}
        }
        true
    });
    // What a computed path imports is known when it runs, so its calls are not judged.
    let unknown = || vec![("*".to_string(), 0)];
    let mut modules: HashMap<String, Functions> = computed.into_iter().map(|alias| (alias, unknown())).collect();
    for (alias, target, position) in imports {
        match host.sources.compile_module(host.engine, file, &target, position) {
            Ok((module_file, module)) => {
                let functions = match checked.files.contains(&module_file) {
                    true => public_functions(&module),
                    false => visit(host, &module, &module_file, checked, scripts)?,
                };
                modules.insert(alias, functions);
            }
            Err(error) => match *error {
                EvalAltResult::ErrorModuleNotFound(..) => {
                    checked.problems.push(Problem {
                        diagnostic: Diagnostic {
                            hint: host.sources.import_hint(&target),
                            ..Diagnostic::new(format!("cannot find the module `{target}`"))
                        },
                        file: file.into(),
                        position,
                    });
                    // What it would have held is unknown, so its calls are not judged.
                    modules.insert(alias, unknown());
                }
                other => return Err(Box::new(other)),
            },
        }
    }

    scripts.push(Script { file: file.to_string(), ast: ast.clone(), own, modules });
    Ok(public_functions(ast))
}

/// Resolves the calls of a script.
fn judge_calls(host: &Host, script: &Script, checked: &mut Checked) {
    ast::walk(&script.ast, &mut |path: &[ASTNode]| {
        let (call, position, is_method) = match path.last() {
            Some(ASTNode::Expr(Expr::FnCall(call, position))) => (call, *position, false),
            Some(ASTNode::Stmt(Stmt::FnCall(call, position))) => (call, *position, false),
            Some(ASTNode::Expr(Expr::MethodCall(call, position))) => (call, *position, true),
            _ => return true,
        };
        if call.op_token.is_none() && !(is_method && checked.keys.contains(call.name.as_str())) {
            checked.calls += 1;
            if let Some(diagnostic) = judge(host, call, is_method, &script.own, &script.modules) {
                checked.problems.push(Problem { diagnostic, file: script.file.clone(), position });
            }
        }
        true
    });
}

/// What an importing script can call.
fn public_functions(ast: &AST) -> Functions {
    let public = ast.iter_functions().filter(|f| f.access.is_public());
    public.map(|f| (f.name.to_string(), f.params.len())).collect()
}

/// Words of the language that parse as calls.
const KEYWORDS: &[&str] =
    &["call", "curry", "Fn", "eval", "is_def_fn", "is_def_var", "is_shared", "type_of", "print", "debug"];

/// What is wrong with a call, if anything.
fn judge(
    host: &Host,
    call: &FnCallExpr,
    is_method: bool,
    own: &Functions,
    modules: &HashMap<String, Functions>,
) -> Option<Diagnostic> {
    let name = call.name.as_str();
    let given = call.args.len();
    let reference = host.reference();
    if !call.namespace.is_empty() {
        let root = call.namespace.root();
        if let Some(functions) = modules.get(root) {
            let fits = functions.iter().any(|(n, params)| n == "*" || (n == name && *params == given));
            return (!fits).then(|| explain_script_call(&format!("{root}::"), name, given, functions));
        }
        let named: Vec<_> =
            reference.functions.iter().filter(|f| f.qualified && f.group == root && f.name == name).collect();
        if named.iter().any(|f| f.params.len() == given) {
            return None;
        }
        if named.is_empty() {
            return Some(reference.unknown_function(Some(root), name, &[]));
        }
        return Some(wrong_count(&format!("{root}::{name}"), given, named.iter().map(|f| f.signature()).collect()));
    }
    if KEYWORDS.contains(&name) || name.starts_with("anon$") {
        return None;
    }
    // `x.f(a)` is f(x, a); a script function may also see x as `this`.
    let counts = if is_method { vec![given + 1, given] } else { vec![given] };
    if own.iter().any(|(n, params)| n == name && counts.contains(params)) {
        return None;
    }
    let native = reference.functions.iter().filter(|f| !f.qualified && f.name == name);
    let signatures: Vec<String> = native.clone().map(|f| f.signature()).collect();
    let native_fits = native.map(|f| f.params.len()).any(|n| n == counts[0]);
    let builtin_fits = reference.builtin.iter().any(|(n, params)| n == name && *params == counts[0]);
    if native_fits || builtin_fits {
        return None;
    }
    if own.iter().any(|f| f.0 == name) {
        return Some(explain_script_call("", name, given, own));
    }
    if !signatures.is_empty() {
        return Some(wrong_count(name, given, signatures));
    }
    if reference.builtin.iter().any(|(n, _)| n == name) {
        return Some(Diagnostic::new(format!("no `{name}` takes {given} arguments")));
    }
    let own_names: Vec<String> = own.iter().map(|f| f.0.clone()).filter(|n| !n.starts_with("anon$")).collect();
    Some(reference.unknown_function(None, name, &own_names))
}

fn wrong_count(name: &str, given: usize, signatures: Vec<String>) -> Diagnostic {
    Diagnostic::new(format!("no `{name}` takes {given} argument{}", if given == 1 { "" } else { "s" }))
        .hint(format!("it is called as: {}", signatures.join("  or  ")))
}

fn explain_script_call(namespace: &str, name: &str, given: usize, functions: &Functions) -> Diagnostic {
    match functions.iter().find(|f| f.0 == name) {
        Some((_, params)) => Diagnostic::new(format!("`{namespace}{name}` takes {params} arguments, found {given}")),
        None => {
            let names: Vec<&str> = functions.iter().map(|f| f.0.as_str()).filter(|n| !n.starts_with("anon$")).collect();
            let near = did_you_mean(name, names.iter().copied());
            Diagnostic::new(format!("unknown function `{namespace}{name}`{near}"))
                .hint(format!("it has: {}", names.join(", ")))
        }
    }
}
