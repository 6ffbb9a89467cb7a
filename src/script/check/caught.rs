//! A `switch` on a caught error, which never matches: an error is no text.

use crate::error::Diagnostic;
use rhai::{ASTNode, Expr, Position, Stmt};

/// What to say of a `try` in whose `catch` the error itself is switched on, and where.
pub fn judge(node: Option<&ASTNode>) -> Option<(Diagnostic, Position)> {
    let Some(ASTNode::Stmt(Stmt::TryCatch(flow, _))) = node else { return None };
    let Expr::Variable(caught, ..) = &flow.expr else { return None };
    let mut found = None;
    let mut look = |path: &[ASTNode]| {
        if let Some(ASTNode::Stmt(Stmt::Switch(switch, position))) = path.last()
            && matches!(&switch.0, Expr::Variable(of, ..) if of.1 == caught.1)
        {
            found = Some(*position);
        }
        found.is_none()
    };
    flow.branch.statements().iter().all(|statement| statement.walk(&mut Vec::new(), &mut look));
    let name = &caught.1;
    let wrong =
        Diagnostic::new(format!("no case of this switch ever matches: `{name}` is an error, not what was thrown"));
    Some((wrong.hint(format!("switch on {name}.message, or on {name}.value, which is what was thrown")), found?))
}
