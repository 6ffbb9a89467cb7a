//! Ways through the syntax tree of a script.

use rhai::{AST, ASTNode, Expr};

/// Shows every node of a script to `on_node`, until that gives false. Rhai's own walk leaves out the arguments of
/// method calls: `images.take(param("n", 100))`.
pub fn walk(ast: &AST, on_node: &mut dyn FnMut(&[ASTNode]) -> bool) {
    fn visit(path: &[ASTNode], on_node: &mut dyn FnMut(&[ASTNode]) -> bool) -> bool {
        if !on_node(path) {
            return false;
        }
        let Some(ASTNode::Expr(Expr::MethodCall(call, _))) = path.last() else { return true };
        call.args.iter().all(|arg| arg.walk(&mut Vec::new(), &mut |path| visit(path, on_node)))
    }
    ast.walk(&mut |path| visit(path, on_node));
}
