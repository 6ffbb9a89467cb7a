//! `nepa check`: resolves every import, function and option of a recipe without running it.

mod calls;
mod caught;
mod circles;
mod division;
mod keys;
mod pitfalls;
mod tree;
mod typed;
mod variables;

use super::Host;
use crate::error::{Diagnostic, Result};
use crate::script::params::{self, Declared};
use rhai::{AST, ASTNode, EvalAltResult, Expr, Position, Stmt};
use std::collections::{HashMap, HashSet};
use tree::{Call, Functions, Imported, Script};
use variables::Variables;

/// Something that would fail, or would not do what it seems to, when it is reached.
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
    /// What runs, but hardly does what was meant.
    pub warnings: Vec<Problem>,
    /// Keys of maps in any of the scripts: a map's function may be called like a method.
    keys: HashSet<String>,
}

/// Checks a compiled script and everything that it imports.
pub fn check(host: &Host, ast: &AST, file: &str) -> Result<Checked, Box<EvalAltResult>> {
    let mut checked = Checked::default();
    let mut scripts = Vec::new();
    visit(host, ast, file, &mut checked, &mut scripts)?;
    checked.problems.extend(circles::find(&scripts));
    let contradictions = params::contradictions(&mut checked.params).into_iter();
    let problem =
        |(diagnostic, of): (Diagnostic, Declared)| Problem { diagnostic, file: of.file, position: of.position };
    checked.problems.extend(contradictions.map(problem));
    // Once the keys of all scripts are known.
    for script in &scripts {
        judge(host, script, &mut checked);
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
    ast.walk(&mut |path: &[ASTNode]| {
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
            Some(ASTNode::Expr(Expr::Index(sides, ..))) => {
                if let Expr::StringConstant(key, _) = &sides.rhs {
                    checked.keys.insert(key.to_string());
                }
            }
            _ => {}
        }
        true
    });
    let unknown = || Imported { file: None, functions: Vec::new() };
    let at_once = circles::imports_at_once(ast);
    let mut imported = Vec::new();
    let mut modules: HashMap<String, Vec<Imported>> =
        computed.into_iter().map(|alias| (alias, vec![unknown()])).collect();
    for (alias, target, position) in imports {
        match host.sources.compile_module(host.engine, file, &target, position) {
            Ok((module_file, module)) => {
                let functions = match checked.files.contains(&module_file) {
                    true => public_functions(&module),
                    false => visit(host, &module, &module_file, checked, scripts)?,
                };
                if at_once.contains(&position) {
                    imported.push((module_file.clone(), position));
                }
                modules.entry(alias).or_default().push(Imported { file: Some(module_file), functions });
            }
            Err(error) => match *error {
                EvalAltResult::ErrorModuleNotFound(..) => {
                    checked.problems.push(Problem {
                        diagnostic: Diagnostic {
                            hint: host.sources.import_hint(file, &target),
                            ..Diagnostic::new(format!("cannot find the module `{target}`"))
                        },
                        file: file.into(),
                        position,
                    });
                    modules.entry(alias).or_default().push(unknown());
                }
                other => return Err(Box::new(other)),
            },
        }
    }

    let variables = Variables::of(ast, &text);
    scripts.push(Script { file: file.to_string(), text, ast: ast.clone(), own, modules, imported, variables });
    Ok(public_functions(ast))
}

/// Resolves the calls of a script, the options given to them, and its divisions.
fn judge(host: &Host, script: &Script, checked: &mut Checked) {
    let problem = |(diagnostic, position)| Problem { diagnostic, file: script.file.clone(), position };
    checked.warnings.extend(pitfalls::commented_divisions(&script.text).into_iter().map(problem));
    script.ast.walk(&mut |path: &[ASTNode]| {
        checked.problems.extend(caught::judge(path.last()).map(problem));
        checked.warnings.extend(pitfalls::judge(path.last(), script).map(problem));
        if let Some(ASTNode::Stmt(Stmt::Assignment(assignment))) = path.last() {
            let (computes, sides) = (assignment.0.is_op_assignment(), &assignment.1);
            checked.warnings.extend(division::judge_assignment(sides, computes, script).map(problem));
        }
        let Some(call) = Call::of(path.last()) else { return true };
        if call.expression.op_token.is_some() {
            checked.warnings.extend(division::judge(&call, script).map(problem));
        } else if !(call.is_method && checked.keys.contains(call.expression.name.as_str())) {
            checked.calls += 1;
            let wrong = calls::judge(host, &call, script).map(|diagnostic| (diagnostic, call.position));
            let wrong = wrong.or_else(|| keys::judge(host, &call, script));
            // Within a `try` it may be meant.
            let is_tried = path.iter().any(|node| matches!(node, ASTNode::Stmt(Stmt::TryCatch(..))));
            let judged = || if is_tried { None } else { typed::judge(host, &call, script) };
            checked.problems.extend(wrong.or_else(judged).map(problem));
            checked.warnings.extend(keys::judge_divisions(host, &call, script).into_iter().map(problem));
        }
        true
    });
}

/// What an importing script can call.
fn public_functions(ast: &AST) -> Functions {
    let public = ast.iter_functions().filter(|f| f.access.is_public());
    public.map(|f| (f.name.to_string(), f.params.len())).collect()
}
