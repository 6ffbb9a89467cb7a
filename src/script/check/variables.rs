//! What variables hold, as far as a script's text tells.

use rhai::{AST, ASTNode, Expr, Stmt};
use std::collections::{HashMap, HashSet};

/// The variables of a script, and what they were declared with.
#[derive(Default)]
pub struct Variables {
    kept: HashMap<String, Expr>,
    /// What those are declared with that change.
    changed: HashMap<String, Expr>,
    /// All that a name is given anywhere in the script.
    given: HashMap<String, Vec<Given>>,
}

/// What a name is given.
pub enum Given {
    /// By a declaration or an assignment, also one like `x += 1`.
    Value(Expr),
    /// By a loop over a range of integers, or that counts along.
    Count,
    /// By a call, or a loop over other things.
    Unknown,
}

impl Variables {
    /// Those are kept that are declared once, and never assigned, called on, or shadowed by a parameter or a loop's
    /// variable.
    pub fn of(ast: &AST, text: &str) -> Self {
        let mut declared: HashMap<String, Expr> = HashMap::new();
        let mut changed: HashSet<String> = HashSet::new();
        let mut given: HashMap<String, Vec<Given>> = HashMap::new();
        let mut give = |name: &str, what: Given| given.entry(name.to_string()).or_default().push(what);
        let of_functions = ast.iter_functions().filter(|f| !f.name.starts_with("anon$"));
        let of_functions = of_functions.flat_map(|f| f.params.iter().map(|p| p.to_string()).collect::<Vec<_>>());
        // Parameters of closures, among which the tree also counts what they capture: |a, b|.
        let of_closures = text.split('|').skip(1).filter(|between| between.len() < 100).flat_map(parameter_names);
        for parameter in of_functions.chain(of_closures) {
            give(&parameter, Given::Unknown);
            changed.insert(parameter);
        }
        ast.walk(&mut |path: &[ASTNode]| {
            match path.last() {
                Some(ASTNode::Stmt(Stmt::Var(declaration, ..))) => {
                    let (name, value) = (declaration.0.name.to_string(), declaration.1.clone());
                    give(&name, Given::Value(value.clone()));
                    if declared.insert(name.clone(), value).is_some() {
                        changed.insert(name);
                    }
                }
                Some(ASTNode::Stmt(Stmt::For(header, _))) => {
                    give(&header.0.name, if is_range(&header.2.expr) { Given::Count } else { Given::Unknown });
                    if let Some(counter) = &header.1 {
                        give(&counter.name, Given::Count);
                    }
                    changed.extend([&header.0].into_iter().chain(&header.1).map(|ident| ident.name.to_string()));
                }
                Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                    if let Some(name) = name_of(&assignment.1.lhs) {
                        // x = x + 1 as x += 1.
                        let value = match &assignment.1.rhs {
                            Expr::FnCall(sum, _) if sum.op_token.is_some() && sum.args.len() == 2 => {
                                if name_of(&sum.args[0]) == Some(name) { &sum.args[1] } else { &assignment.1.rhs }
                            }
                            value => value,
                        };
                        give(name, Given::Value(value.clone()));
                        changed.insert(name.to_string());
                    }
                }
                Some(ASTNode::Expr(Expr::Dot(link, ..))) if matches!(link.rhs, Expr::MethodCall(..)) => {
                    changed.extend(name_of(&link.lhs).map(String::from));
                }
                _ => {}
            }
            true
        });
        let (changed, kept) = declared.into_iter().partition(|(name, _)| changed.contains(name));
        Self { kept, changed, given }
    }

    /// What an expression is: of a variable that is kept, what it was declared with.
    pub fn resolve<'a>(&'a self, expression: &'a Expr) -> &'a Expr {
        name_of(expression).and_then(|name| self.kept.get(name)).unwrap_or(expression)
    }

    /// What a variable held first, also if it changes.
    pub fn first_value<'a>(&'a self, expression: &'a Expr) -> &'a Expr {
        name_of(expression).and_then(|name| self.changed.get(name)).unwrap_or(expression)
    }

    /// All that the variable which an expression is may hold; nothing of another expression.
    pub fn given(&self, expression: &Expr) -> &[Given] {
        name_of(expression).and_then(|name| self.given.get(name)).map_or(&[], Vec::as_slice)
    }
}

/// The variable that an expression is.
fn name_of(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Variable(variable, ..) if variable.2.is_empty() => Some(&variable.1),
        _ => None,
    }
}

/// Whether an expression is a range of integers; those with dots are of no others.
fn is_range(expression: &Expr) -> bool {
    let Expr::FnCall(call, _) = expression else { return false };
    let holds_integer = call.args.iter().any(|of| matches!(of, Expr::IntegerConstant(..)));
    ["..", "..="].contains(&call.name.as_str()) || (call.name == "range" && holds_integer)
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
