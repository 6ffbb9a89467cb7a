//! Places in the text and in the syntax tree of a script.

use rhai::{AST, ASTNode, Expr, Position, Stmt};

/// A text whose lines are found at once.
pub struct Lines<'a> {
    text: &'a str,
    /// The first byte of each line.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Finds the lines of a text.
    pub fn new(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: [0].into_iter().chain(ends).collect() }
    }

    /// The byte at a line and column.
    pub fn offset(&self, position: Position) -> Option<usize> {
        let (line, column) = (position.line()?, position.position()?);
        let start = self.starts.get(line - 1).copied().unwrap_or(self.text.len());
        let before: usize = self.text[start..].chars().take(column - 1).map(char::len_utf8).sum();
        Some(start + before)
    }
}

/// The byte of a text at a line and column.
pub fn offset(text: &str, position: Position) -> Option<usize> {
    Lines::new(text).offset(position)
}

/// Where a key stands in the map that the call at `position` is given: a literal, or the sum of some.
pub fn key_position(ast: &AST, position: Position, key: &str) -> Option<Position> {
    let mut found = None;
    ast.walk(&mut |path: &[ASTNode]| {
        let call = match path.last() {
            Some(ASTNode::Expr(Expr::FnCall(call, at) | Expr::MethodCall(call, at))) if *at == position => call,
            Some(ASTNode::Stmt(Stmt::FnCall(call, at))) if *at == position => call,
            _ => return found.is_none(),
        };
        // Options come last.
        found = call.args.iter().rev().find_map(|arg| key_in(arg, key));
        found.is_none()
    });
    found
}

fn key_in(value: &Expr, key: &str) -> Option<Position> {
    match value {
        Expr::Map(map, _) => {
            let own = map.0.iter().find(|(name, _)| name.name == key).map(|(name, _)| name.pos);
            own.or_else(|| map.0.iter().find_map(|(_, value)| key_in(value, key)))
        }
        Expr::Array(list, _) => list.iter().find_map(|value| key_in(value, key)),
        Expr::FnCall(sum, _) if sum.name == "+" => sum.args.iter().rev().find_map(|part| key_in(part, key)),
        _ => None,
    }
}

/// What the imports of a script name, wherever they stand; the line of one whose path is computed.
pub fn imports(ast: &AST) -> Vec<Result<String, usize>> {
    let mut all = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some(ASTNode::Stmt(Stmt::Import(import, position))) = path.last() {
            all.push(match &import.0 {
                Expr::StringConstant(path, _) => Ok(path.to_string()),
                _ => Err(position.line().unwrap_or(0)),
            });
        }
        true
    });
    all
}
