//! Divisions of integers that drop a remainder before they meet a float: `1 / 256 * 1e-3` is 0.

use super::tree::{Call, Script};
use super::variables::Variables;
use crate::error::Diagnostic;
use rhai::{Expr, FnCallExpr, Position};

/// What a number is.
#[derive(Clone, Copy)]
enum Number {
    Int(Option<i64>),
    Float,
    /// No number: text that a quotient is written into.
    Text,
    /// Of a division of integers with a remainder: its value, where it is known, and the division.
    Quotient(Option<i64>, Position),
}

/// What to say of an operator's call, and where.
pub fn judge(call: &Call, script: &Script) -> Option<(Diagnostic, Position)> {
    let [left, right] = call.expression.args.as_slice() else { return None };
    if !["+", "-", "*", "/", "**", "%"].contains(&call.expression.name.as_str()) {
        return None;
    }
    let number = |side| number(side, &script.variables, 0);
    meeting(number(left), number(right)).or_else(|| meeting(number(right), number(left)))
}

/// What to say of `x *= 64 / 256`.
pub fn judge_assignment(left: &Expr, right: &Expr, script: &Script) -> Option<(Diagnostic, Position)> {
    let before = number(script.variables.first_value(left), &script.variables, 0);
    meeting(number(right, &script.variables, 0), before)
}

/// What to say of a value that is used as a float.
pub fn judge_float(value: &Expr, variables: &Variables) -> Option<(Diagnostic, Position)> {
    meeting(number(value, variables, 0), Some(Number::Float))
}

/// What to say of a quotient that meets `other`; a quotient of literals is meant for no integer, so that `None`, which
/// may be a tensor, counts as a float.
fn meeting(quotient: Option<Number>, other: Option<Number>) -> Option<(Diagnostic, Position)> {
    let Some(Number::Quotient(value, position)) = quotient else { return None };
    if !matches!((other, value), (Some(Number::Float), _) | (None, Some(_))) {
        return None;
    }
    let result = value.map_or("drops its remainder".to_string(), |value| format!("gives {value}"));
    let warning = Diagnostic::new(format!("this division of integers {result}, which then meets a float"))
        .hint("divide floats: 1.0 / 256, or x.to_float() / 256");
    Some((warning, position))
}

/// How deep variables that stand for expressions are followed.
const DEEPEST: usize = 8;

fn number(expression: &Expr, variables: &Variables, depth: usize) -> Option<Number> {
    if depth > DEEPEST {
        return None;
    }
    match variables.resolve(expression) {
        Expr::IntegerConstant(value, _) => Some(Number::Int(Some(*value))),
        Expr::FloatConstant(..) => Some(Number::Float),
        Expr::StringConstant(..) | Expr::InterpolatedString(..) => Some(Number::Text),
        // Its value may be another, but not its type.
        Expr::FnCall(call, _) if call.name == "param" && call.args.len() >= 2 => {
            Some(match number(&call.args[1], variables, depth + 1)? {
                Number::Int(_) => Number::Int(None),
                other => other,
            })
        }
        Expr::FnCall(call, position) if call.op_token.is_some() => operation(call, *position, variables, depth),
        _ => None,
    }
}

fn operation(call: &FnCallExpr, position: Position, variables: &Variables, depth: usize) -> Option<Number> {
    let of = |i: usize| number(&call.args[i], variables, depth + 1);
    if call.args.len() == 1 {
        return Some(match (call.name.as_str(), of(0)?) {
            ("-", Number::Int(value)) => Number::Int(value.and_then(i64::checked_neg)),
            ("-" | "+", other) => other,
            _ => return None,
        });
    }
    let (left, right) = (of(0)?, of(1)?);
    let value = |n: Number| match n {
        Number::Int(value) | Number::Quotient(value, _) => value,
        Number::Float | Number::Text => None,
    };
    let (a, b) = (value(left), value(right));
    let exact = |f: fn(i64, i64) -> Option<i64>| a.zip(b).and_then(|(a, b)| f(a, b));
    let result = match call.name.as_str() {
        "+" => exact(i64::checked_add),
        "-" => exact(i64::checked_sub),
        "*" => exact(i64::checked_mul),
        "/" => exact(i64::checked_div),
        "%" => exact(i64::checked_rem),
        "**" => a.zip(b).and_then(|(a, b)| a.checked_pow(u32::try_from(b).ok()?)),
        _ => return None,
    };
    Some(match (left, right) {
        (Number::Text, _) | (_, Number::Text) => Number::Text,
        (Number::Float, _) | (_, Number::Float) => Number::Float,
        (Number::Quotient(_, at), _) | (_, Number::Quotient(_, at)) => Number::Quotient(result, at),
        _ if call.name == "/" && a.zip(b).and_then(|(a, b)| a.checked_rem(b)) != Some(0) => {
            Number::Quotient(result, position)
        }
        _ => Number::Int(result),
    })
}
