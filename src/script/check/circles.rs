//! Scripts that import each other, which a run refuses.

use super::Problem;
use super::tree::Script;
use crate::error::Diagnostic;
use rhai::{AST, Position, Stmt};

/// Where a script imports others as soon as it is imported itself: those in functions wait for a call.
pub fn imports_at_once(ast: &AST) -> Vec<Position> {
    let position = |statement: &Stmt| match statement {
        Stmt::Import(_, position) => Some(*position),
        _ => None,
    };
    ast.statements().iter().filter_map(position).collect()
}

/// A problem for each circle of imports, at the import that begins it.
pub fn find(scripts: &[Script]) -> Vec<Problem> {
    let mut told: Vec<String> = Vec::new();
    let mut problems = Vec::new();
    for script in scripts {
        if told.contains(&script.file) {
            continue;
        }
        let Some(chain) = way_back(script, scripts) else { continue };
        let begins = script.imported.iter().find(|(file, _)| chain.get(1) == Some(file));
        let diagnostic = Diagnostic::new(format!("circular import: {}", chain.join(" -> ")))
            .hint("move what both need to a script of its own");
        problems.extend(begins.map(|(_, position)| Problem {
            diagnostic,
            file: script.file.clone(),
            position: *position,
        }));
        told.extend(chain);
    }
    problems
}

/// The files on the way from a script back to itself.
fn way_back(script: &Script, scripts: &[Script]) -> Option<Vec<String>> {
    let mut seen: Vec<&str> = Vec::new();
    let mut open = vec![vec![script.file.clone()]];
    while let Some(chain) = open.pop() {
        let last = scripts.iter().find(|of| Some(&of.file) == chain.last())?;
        for (file, _) in &last.imported {
            let longer = [chain.clone(), vec![file.clone()]].concat();
            if *file == script.file {
                return Some(longer);
            }
            if !seen.contains(&file.as_str()) {
                seen.push(file);
                open.push(longer);
            }
        }
    }
    None
}
