//! What runs, but does something else than it does in Python.

use super::tree::{Call, Script};
use crate::error::Diagnostic;
use crate::script::ast::Lines;
use crate::script::error::declared_names;
use crate::script::functions::tokens;
use rhai::{ASTNode, Expr, Position, Token};

/// What to say of a node of the tree, and where.
pub fn judge(node: Option<&ASTNode>, script: &Script) -> Option<(Diagnostic, Position)> {
    match node? {
        ASTNode::Expr(Expr::StringConstant(text, position)) => unfilled(text, *position),
        ASTNode::Expr(Expr::Dot(link, ..)) => flattening(&link.lhs, &link.rhs, script),
        node => chain(&Call::of(Some(node))?),
    }
}

/// `a < b < c`, which compares a truth value: an error of numbers, but not of tensors.
fn chain(call: &Call) -> Option<(Diagnostic, Position)> {
    const ORDERS: [&str; 4] = ["<", "<=", ">", ">="];
    let orders = |name: &str| ORDERS.contains(&name);
    let is_chain = orders(&call.expression.name)
        && matches!(call.expression.args.first()?, Expr::FnCall(first, _) if orders(&first.name));
    let warning = Diagnostic::new("a chain of comparisons compares the first one's truth value with a number");
    is_chain.then(|| (warning.hint("write a < b && b < c; of tensors, (a < b) & (b < c)"), call.position))
}

/// `"step ${step}"`, in which nothing is filled in.
fn unfilled(text: &str, position: Position) -> Option<(Diagnostic, Position)> {
    let name = text.split("${").skip(1).find_map(|rest| rest.split_once('}').map(|(name, _)| name))?;
    let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_alphanumeric() || "_.[]".contains(c));
    let warning = Diagnostic::new(format!("${{{name}}} stays as it is in double quotes"));
    is_name.then(|| (warning.hint(format!("values are filled in inside backticks: `… ${{{name}}}`")), position))
}

/// `rows.append([1, 2])` of a list of lists, which gets two numbers.
fn flattening(list: &Expr, method: &Expr, script: &Script) -> Option<(Diagnostic, Position)> {
    let Expr::MethodCall(call, position) = method else { return None };
    let ([Expr::Array(added, _)], "append") = (call.args.as_slice(), call.name.as_str()) else { return None };
    let is_array = |item: &Expr| matches!(item, Expr::Array(..));
    let Expr::Array(held, _) = script.variables.first_value(list) else { return None };
    let flattens = !held.is_empty() && held.iter().all(is_array) && !added.iter().any(is_array);
    let warning = Diagnostic::new("this adds the elements of the array, not the array");
    flattens.then(|| (warning.hint("list.push([…]) adds it as one element"), *position))
}

/// `n // 2` at the end of a block, which is n: // starts a comment.
pub fn commented_divisions(text: &str) -> Vec<(Diagnostic, Position)> {
    let lines = Lines::new(text);
    let names = declared_names(text);
    let is_operand = |word: &str| word.parse::<f64>().is_ok_and(f64::is_finite) || names.iter().any(|n| n == word);
    let mut found = Vec::new();
    // Where the last token ends, if a division may follow.
    let mut dividend: Option<usize> = None;
    tokens(text, |token, position, _| {
        let start = lines.offset(position).unwrap_or(text.len());
        if matches!(token, Token::RightBrace | Token::RightBracket | Token::RightParen)
            && let Some(end) = dividend
            && let Some(comment) = text.get(end..).and_then(|rest| rest.lines().next())
            && let Some(divisor) = comment.trim_start().strip_prefix("//")
            && is_operand(divisor.trim().trim_end_matches(';').trim_end())
        {
            let at = position_of(text, end + comment.len() - comment.trim_start().len());
            let warning = Diagnostic::new("// starts a comment, so that nothing is divided here");
            found.push((warning.hint("two integers are divided by /, which drops the remainder"), at));
        }
        let word = |also: char| text[start..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == also));
        dividend = match token {
            Token::RightParen | Token::RightBracket => Some(start + 1),
            Token::Identifier(_) => word('_').map(|length| start + length),
            Token::IntegerConstant(_) | Token::FloatConstant(_) => word('.').map(|length| start + length),
            _ => None,
        };
        true
    });
    found
}

/// Line and column of a byte.
fn position_of(text: &str, at: usize) -> Position {
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    match (u16::try_from(line), u16::try_from(column)) {
        (Ok(line), Ok(column)) => Position::new(line, column),
        _ => Position::NONE,
    }
}
