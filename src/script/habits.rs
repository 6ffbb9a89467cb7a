//! What people who know Python type by habit, and what this language says instead.

use super::ast::offset;
use crate::error::Diagnostic;
use rhai::{ParseErrorType, Position};

/// What to write for a name that is no variable here, if another language has it.
pub fn of_variable(name: &str) -> Option<&'static str> {
    Some(match name {
        "None" | "null" | "nil" | "undefined" | "NULL" | "nullptr" => "None is written ()",
        "True" | "TRUE" => "it is written true",
        "False" | "FALSE" => "it is written false",
        "self" => "the map that a function was called on is `this`",
        "lambda" => "a closure is written |x| x + 1, and called as f.call(3)",
        "def" | "function" | "func" => "a function is written fn name(x) { … }",
        "elif" | "elsif" => "it is written else if",
        "not" => "it is written !: if !done { … }",
        "assert" => "write if !condition { throw \"what is wrong\"; }",
        "raise" => "an error is raised by throw \"what is wrong\";",
        "pass" => "an empty block is written { }",
        "del" => "a variable ends with its block; map.remove(\"key\") removes a key",
        "from" => "a script is imported by import \"path\" as name; nepa's own functions need no import",
        "inf" | "infinity" | "Infinity" => "infinity is 1.0 / 0.0",
        "nan" | "NaN" | "NAN" => "NaN is 0.0 / 0.0",
        "torch" | "np" | "numpy" | "math" => "tensors and maths need no import: ones([2, 3]), x.exp(), x.sum()",
        "device" => "it is a function: device()",
        "print" | "len" | "range" => "it is a function: it needs its arguments",
        _ => return None,
    })
}

/// What to write for a function that does not exist here, if PyTorch or Python has it.
pub fn of_function(name: &str) -> Option<&'static str> {
    Some(match name {
        "view" | "view_as" => "use x.reshape([2, -1])",
        "cuda" | "cpu" => "modules and tensors are made on the device of --device; x.to(\"cpu\") moves a tensor",
        "numpy" => "x.to_array() gives the numbers, x.item() the one of a single element",
        "half" | "bfloat16" | "double" => "it is x.to(\"float32\"), with the name of a dtype",
        "int" => "a number becomes an integer by to_int(), a text by parse_int(…)",
        "str" => "a value becomes text by to_string(), or inside backticks: `${x}`",
        "format" => "values go into text inside backticks: `loss ${loss}`",
        "enumerate" => "for (x, i) in list { … } counts along, the element first",
        "zip" => "loop over positions: for i in 0..a.len() { a[i]; b[i]; }",
        "isinstance" => "type_of(x) == \"string\" tells a value's type",
        "items" => "for key in map.keys() { map[key]; }",
        "assert" => "write if !condition { throw \"what is wrong\"; }",
        "append" => "list.push(x) adds one element, list.append([x, y]) those of another array",
        "extend" => "list.append([x, y]) adds the elements of another array",
        "length" => "it is x.len()",
        "float" => "a number becomes a float by to_float(), a text by parse_float(…)",
        "open" | "input" | "exec" => {
            "scripts reach files through nepa's functions only: read_json, data::…, checkpoint::…"
        }
        "no_grad" => "it takes a closure: no_grad(|| …)",
        "parameters" => "it is module.named_parameters(), a map by name",
        "T" => "use x.t(), or x.transpose(0, 1)",
        "print" => "it takes one value: print(`loss ${x}`)",
        "train" => "it is m.train(true), and m.train(false) for evaluation",
        "Compose" | "ToTensor" => {
            "transforms are a list, as in [transform::resize(256), …]; images become tensors by themselves"
        }
        "Lambda" => {
            "a function of the batch is a transform itself: [transform::resize(256), |batch| batch.images * 2.0]"
        }
        "RandomApply" => {
            "transforms have a probability of their own: transform::color_jitter(#{ brightness: 0.4, p: 0.8 })"
        }
        "RandomAffine" | "RandomRotation" | "TrivialAugmentWide" | "AutoAugment" => {
            "transform::rand_augment(\"rand-m9\") turns, shears, shifts and changes colours at random; \
             transform::op(\"Rotate\", [10.0], #{}) does one of these always"
        }
        "DataLoader" => "use data::loader(images, transforms, #{ batch: 128 })",
        "range" => "a range of integers is 0..3, or 0..=3 with its end; range(0, 10, 2) has a step",
        "super" | "__init__" => "there are no classes: nn::define(#{ … }, |m, x| …) makes a module of your own",
        _ => return None,
    })
}

/// How a variable that holds a closure is called: the call at `position` of `text`, rewritten.
pub fn call_of_variable(name: &str, position: Position, text: &str) -> String {
    let rest = offset(text, position).map_or("", |start| &text[start..]);
    let arguments = rest.find('(').and_then(|open| {
        let mut depth = 0;
        let close = rest[open..].char_indices().find(|(_, c)| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            depth == 0
        })?;
        Some(&rest[open..=open + close.0])
    });
    let arguments = arguments.filter(|a| a.len() <= 40 && !a.contains('\n')).unwrap_or("(…)");
    format!(
        "`{name}` is a variable: a closure is called as {name}.call{arguments}, a module as {name}.forward{arguments}"
    )
}

/// What a syntax error comes from and where, if it is a habit or a missing semicolon.
pub fn of_syntax(kind: &ParseErrorType, position: Position, text: &str) -> Option<(Diagnostic, Position)> {
    let at = offset(text, position)?;
    let (before, rest) = text.split_at(at);
    let line = before.rsplit('\n').next().unwrap_or_default();
    let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let after = rest[word.len()..].trim_start();
    let said = |message: &str, hint: &str| Some((Diagnostic::new(message).hint(hint), position));
    let message = format!("syntax error: {kind}");
    if let ParseErrorType::VariableUndefined(name) = kind {
        let hint = match after {
            a if a.starts_with('=') && !a.starts_with("==") && line.trim_end().ends_with(['(', ',']) => {
                "there are no keyword arguments: give them in order, and options as a map #{ name: value }"
            }
            a if a.starts_with('"') && name.len() == 1 => "an f-string is written in backticks: `loss ${loss}`",
            a if a.starts_with("for ") && line.trim_end().ends_with('[') => {
                "there are no list comprehensions: list.map(|x| x * 2), or a loop with list.push(x)"
            }
            a if a.starts_with('=') && !a.starts_with("==") && !a.starts_with("=>") => "declare it: let x = 3;",
            a if a.starts_with('?') => "a conditional value is written if condition { a } else { b }",
            a if a.starts_with("->") || a.starts_with("=>") || a.starts_with(") =>") => {
                "a closure is written |x| x + 1"
            }
            _ => return None,
        };
        return said(&format!("unknown variable `{name}`"), hint);
    }
    let hint = match word.as_str() {
        "and" => "write && instead of `and`",
        "or" => "write || instead of `or`",
        "is" => "equality is written ==, its opposite !=",
        "try" => {
            "try is a statement without a value: declare the variable before it, and assign inside: \
             let x = (); try { x = …; } catch (e) { x = …; }"
        }
        "eval" if line.trim_end().ends_with('.') => "a model is set to evaluation by m.train(false)",
        "eval" => "a text cannot be run as a script: functions are called, or imported from another script",
        "with" => "there are no context managers: functions such as no_grad(|| …) take a closure",
        "var" | "val" => "a variable is declared by let",
        "case" => "a case is written value => expression, and the rest _ => expression",
        "null" | "nil" | "None" => "None is written ()",
        "async" | "await" | "yield" | "class" | "struct" => "the language has no such thing: see rhai.rs/book",
        "if" if line.contains('=') => "a conditional value is written if condition { a } else { b }",
        _ => match rest.chars().next() {
            Some('\'') => "text is written in double quotes: \"text\"",
            Some('#') if line.trim_start().starts_with("for ") => {
                "a map is looped over by its keys: for key in map.keys() { map[key]; }"
            }
            Some('#') if !rest.starts_with("#{") => "a comment starts with //, and a map with #{",
            Some(':') if in_map_like_braces(before) => "a map is written #{ a: 1 }, with # and without quotes",
            Some(':') if line.trim_end().ends_with(')') || holds_any(line, &["if ", "for ", "while ", "else"]) => {
                "a block stands in braces: if x > 1 { … }"
            }
            Some(':') if line.contains('[') => "a slice is written list[1..3], also of a tensor",
            Some(':') if line.trim_start().starts_with("let ") => "types are not declared: let x = 3;",
            Some(',') if message.contains("matching ( in this expression") => "a list of values is an array: [1, 2]",
            Some('+' | '-') if rest.starts_with("++") || rest.starts_with("--") => "it is written x += 1 or x -= 1",
            Some('.') if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => "a number starts with a digit: 0.5",
            Some('=') if line.trim_start().starts_with("fn ") => {
                "parameters have no defaults: take options as a map, see `nepa api options`"
            }
            _ => return missing_mark(kind, before),
        },
    };
    said(&message, hint)
}

fn holds_any(line: &str, words: &[&str]) -> bool {
    words.iter().any(|word| line.contains(word))
}

/// Whether the text ends inside braces after a quoted key: `{ "a"`, `{"a": 1, "b"`.
fn in_map_like_braces(before: &str) -> bool {
    let Some(open) = before.rfind('{') else { return false };
    let inside = before[open + 1..].trim();
    !before[..open].ends_with('#') && inside.starts_with('"') && inside.ends_with('"')
}

/// A missing semicolon or comma is told where it is missing, at the end of the code before.
fn missing_mark(kind: &ParseErrorType, before: &str) -> Option<(Diagnostic, Position)> {
    let ParseErrorType::MissingToken(token, purpose) = kind else { return None };
    let (mark, hint) = match token.as_str() {
        ";" => ("semicolon", "statements end with ;"),
        "," => ("comma", purpose.trim_start_matches("to ")),
        _ => return None,
    };
    let code = strip_comments(before);
    let hint = match mark == "semicolon" && before[code.len()..].contains("//") {
        true => "// starts a comment: two integers are divided by /, which drops the remainder",
        false => hint,
    };
    let line = code.lines().count();
    let column = code.lines().last()?.chars().count() + 1;
    let position = Position::new(u16::try_from(line).ok()?, u16::try_from(column).ok()?);
    let hint = if mark == "comma" { format!("commas {hint}") } else { hint.to_string() };
    Some((Diagnostic::new(format!("syntax error: a {mark} is missing here")).hint(hint), position))
}

/// A text up to its last piece of code.
fn strip_comments(text: &str) -> &str {
    let mut text = text.trim_end();
    loop {
        let start = text.rfind('\n').map_or(0, |at| at + 1);
        match text[start..].find("//") {
            Some(comment) => text = text[..start + comment].trim_end(),
            None => return text,
        }
    }
}
