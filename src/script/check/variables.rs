//! What variables hold, as far as a script's text tells.

use rhai::{AST, ASTNode, Expr, Stmt};
use std::collections::{HashMap, HashSet};

/// The variables of a script, and what they were declared with.
#[derive(Default)]
pub struct Variables {
    kept: HashMap<String, Expr>,
    /// What those are declared with that change.
    changed: HashMap<String, Expr>,
}

impl Variables {
    /// Those are kept that are declared once, and never assigned, called on, or shadowed by a parameter or a loop's
    /// variable.
    pub fn of(ast: &AST, text: &str) -> Self {
        let mut declared: HashMap<String, Expr> = HashMap::new();
        let mut changed: HashSet<String> = HashSet::new();
        let parameters = ast.iter_functions().filter(|f| !f.name.starts_with("anon$"));
        changed.extend(parameters.flat_map(|f| f.params.iter().map(|p| p.to_string()).collect::<Vec<_>>()));
        // Parameters of closures, among which the tree also counts what they capture: |a, b|.
        for bars in text.split('|').skip(1).filter(|between| between.len() < 100) {
            changed.extend(parameter_names(bars));
        }
        ast.walk(&mut |path: &[ASTNode]| {
            match path.last() {
                Some(ASTNode::Stmt(Stmt::Var(declaration, ..))) => {
                    let (name, value) = (declaration.0.name.to_string(), declaration.1.clone());
                    if declared.insert(name.clone(), value).is_some() {
                        changed.insert(name);
                    }
                }
                Some(ASTNode::Stmt(Stmt::For(header, _))) => {
                    changed.extend([&header.0].into_iter().chain(&header.1).map(|ident| ident.name.to_string()));
                }
                Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                    changed.extend(name_of(&assignment.1.lhs).map(String::from));
                }
                Some(ASTNode::Expr(Expr::Dot(link, ..))) if matches!(link.rhs, Expr::MethodCall(..)) => {
                    changed.extend(name_of(&link.lhs).map(String::from));
                }
                _ => {}
            }
            true
        });
        let (changed, kept) = declared.into_iter().partition(|(name, _)| changed.contains(name));
        Self { kept, changed }
    }

    /// What an expression is: of a variable that is kept, what it was declared with.
    pub fn resolve<'a>(&'a self, expression: &'a Expr) -> &'a Expr {
        name_of(expression).and_then(|name| self.kept.get(name)).unwrap_or(expression)
    }

    /// What a variable held first, also if it changes.
    pub fn first_value<'a>(&'a self, expression: &'a Expr) -> &'a Expr {
        name_of(expression).and_then(|name| self.changed.get(name)).unwrap_or(expression)
    }
}

/// The variable that an expression is.
fn name_of(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Variable(variable, ..) if variable.2.is_empty() => Some(&variable.1),
        _ => None,
    }
}

/// The names between two bars, if that is what stands there.
fn parameter_names(text: &str) -> Vec<String> {
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    match names.iter().all(is_name) {
        true => names.into_iter().map(String::from).collect(),
        false => Vec::new(),
    }
}
