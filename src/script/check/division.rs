//! Divisions of integers that drop a remainder before they meet a float: `1 / 256 * 1e-3` is 0.

use super::tree::{Call, Script};
use super::variables::{Given, Variables};
use crate::error::Diagnostic;
use rhai::{BinaryExpr, Expr, FnCallExpr, Position};

/// What a value is, as far as division goes.
#[derive(Clone, Copy, PartialEq)]
enum Number {
    Int(Option<i64>),
    Float,
    /// No number: text that a quotient is written into.
    Text,
    /// A tensor of integers or truth values: its quotients are floats.
    Ints,
    /// Of a division of integers with a remainder: its value, where it is known, and the division.
    Quotient(Option<i64>, Position),
}

const COMPARISONS: [&str; 6] = ["<", "<=", ">", ">=", "==", "!="];

/// What to say of an operator's call, and where.
pub fn judge(call: &Call, script: &Script) -> Option<(Diagnostic, Position)> {
    let [left, right] = call.expression.args.as_slice() else { return None };
    let name = call.expression.name.as_str();
    let compares = COMPARISONS.contains(&name);
    if !compares && !["+", "-", "*", "/", "**", "%"].contains(&name) {
        return None;
    }
    let number = |side| number(side, &script.variables, 0);
    let (left, right) = (number(left), number(right));
    // Of two values that are compared, an unknown one is mostly an integer.
    if compares && left.zip(right).is_none() {
        return None;
    }
    meeting(left, right).or_else(|| meeting(right, left))
}

/// What to say of `x *= 64 / 256`, and of `x = 64 / 256` where x began as a float.
pub fn judge_assignment(assignment: &BinaryExpr, computes: bool, script: &Script) -> Option<(Diagnostic, Position)> {
    let before = number(script.variables.first_value(&assignment.lhs), &script.variables, 0);
    let value = number(&assignment.rhs, &script.variables, 0);
    meeting(value, before).filter(|_| computes || before == Some(Number::Float))
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
    let deeper = |of: &Expr| number(of, variables, depth + 1);
    match variables.resolve(expression) {
        Expr::IntegerConstant(value, _) => Some(Number::Int(Some(*value))),
        Expr::FloatConstant(..) => Some(Number::Float),
        Expr::StringConstant(..) | Expr::InterpolatedString(..) => Some(Number::Text),
        // Its value may be another, but not its type.
        Expr::FnCall(call, _) if call.name == "param" && call.args.len() >= 2 => Some(match deeper(&call.args[1])? {
            Number::Int(_) => Number::Int(None),
            other => other,
        }),
        Expr::FnCall(call, position) if call.op_token.is_some() => operation(call, *position, variables, depth),
        Expr::FnCall(call, _) if call.namespace.is_empty() => match call.name.as_str() {
            "tensor" => match call.args.first()? {
                Expr::Array(items, _) if items.iter().all(|item| matches!(deeper(item), Some(Number::Int(_)))) => {
                    Some(Number::Ints)
                }
                _ => None,
            },
            "arange" if call.args.iter().all(|of| matches!(deeper(of), Some(Number::Int(_)))) => Some(Number::Ints),
            "randint" | "randperm" => Some(Number::Ints),
            name => of_method(name, deeper(call.args.first()?)),
        },
        Expr::Dot(link, ..) => chain(&link.rhs, deeper(&link.lhs)),
        // Few steps, each of which may lead to several others.
        variable => changing(variables.given(variable), |of| number(of, variables, depth + DEEPEST / 2)),
    }
}

/// What a variable is that changes: what all agree on that it is given.
fn changing(given: &[Given], number: impl Fn(&Expr) -> Option<Number>) -> Option<Number> {
    const MOST: usize = 100;
    let mut kinds = given.iter().take(MOST).map(|given| match given {
        Given::Value(value) => match number(value)? {
            Number::Int(_) => Some(Number::Int(None)),
            Number::Quotient(_, at) => Some(Number::Quotient(None, at)),
            other => Some(other),
        },
        Given::Count => Some(Number::Int(None)),
        Given::Unknown => None,
    });
    let first = kinds.next()??;
    kinds.all(|kind| kind == Some(first)).then_some(first)
}

/// What `.argmax(1).sum().item()` gives of a value.
fn chain(link: &Expr, of: Option<Number>) -> Option<Number> {
    match link {
        Expr::MethodCall(call, _) => of_method(&call.name, of),
        Expr::Property(property, _) => match property.2.as_str() {
            "len" | "numel" => Some(Number::Int(None)),
            _ => None,
        },
        Expr::Dot(link, ..) => chain(&link.rhs, chain(&link.lhs, of)),
        Expr::Index(link, ..) => match &link.lhs {
            Expr::Property(property, _) if property.2 == "shape" => Some(Number::Int(None)),
            _ => None,
        },
        _ => None,
    }
}

/// What a method or a property gives of a value; most tell by their names.
fn of_method(name: &str, of: Option<Number>) -> Option<Number> {
    match (name, of) {
        ("len" | "size" | "numel" | "to_int" | "parse_int" | "num_parameters", _) => Some(Number::Int(None)),
        ("to_float" | "parse_float", _) => Some(Number::Float),
        ("argmax" | "argmin" | "argsort" | "nonzero" | "bincount", _) => Some(Number::Ints),
        ("sum" | "cumsum" | "max" | "min" | "reshape" | "flatten" | "squeeze", Some(Number::Ints)) => {
            Some(Number::Ints)
        }
        ("item", Some(Number::Ints)) => Some(Number::Int(None)),
        _ => None,
    }
}

fn operation(call: &FnCallExpr, position: Position, variables: &Variables, depth: usize) -> Option<Number> {
    let of = |i: usize| number(&call.args[i], variables, depth + 1);
    // Of numbers it is a truth value, which no number is asked of.
    if COMPARISONS.contains(&call.name.as_str()) {
        return Some(Number::Ints);
    }
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
        Number::Float | Number::Text | Number::Ints => None,
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
        (Number::Ints, _) | (_, Number::Ints) if call.name == "/" => Number::Float,
        (Number::Ints, _) | (_, Number::Ints) => Number::Ints,
        (Number::Quotient(_, at), _) | (_, Number::Quotient(_, at)) => Number::Quotient(result, at),
        _ if call.name == "/" && a.zip(b).and_then(|(a, b)| a.checked_rem(b)) != Some(0) => {
            Number::Quotient(result, position)
        }
        _ => Number::Int(result),
    })
}
