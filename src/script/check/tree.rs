//! What the checks look at: scripts, what they import, and the calls in them.

use super::variables::Variables;
use rhai::{AST, ASTNode, Expr, FnCallExpr, Position, Stmt};
use std::collections::HashMap;

/// Names and numbers of parameters of a script's own functions.
pub type Functions = Vec<(String, usize)>;

/// A script that another imports.
pub struct Imported {
    /// Its file; unknown if the path is computed or leads nowhere: then its calls are not judged.
    pub file: Option<String>,
    pub functions: Functions,
}

/// A script, and what its calls may reach.
pub struct Script {
    pub file: String,
    pub text: String,
    pub ast: AST,
    pub own: Functions,
    /// By alias, of which functions may each have their own.
    pub modules: HashMap<String, Vec<Imported>>,
    /// The files that it imports as soon as it is imported itself, and where it does.
    pub imported: Vec<(String, Position)>,
    pub variables: Variables,
}

/// A call in a script.
pub struct Call<'a> {
    pub expression: &'a FnCallExpr,
    pub position: Position,
    pub is_method: bool,
}

impl<'a> Call<'a> {
    /// The call that a node of the tree is.
    pub fn of(node: Option<&'a ASTNode<'a>>) -> Option<Self> {
        let (expression, position, is_method) = match node? {
            ASTNode::Expr(Expr::FnCall(call, position)) => (call, *position, false),
            ASTNode::Stmt(Stmt::FnCall(call, position)) => (call, *position, false),
            ASTNode::Expr(Expr::MethodCall(call, position)) => (call, *position, true),
            _ => return None,
        };
        Some(Self { expression, position, is_method })
    }
}
