//! What scripts and their functions do, as text that comments and spacing leave unchanged.

use super::ast::{Lines, offset};
use rhai::{AST, ASTNode, Engine, Expr, FnPtr, Position, Token};
use std::collections::BTreeSet;

/// A script's text without comments and spacing; as it is where it is no script.
pub fn code_of(text: &str) -> String {
    let mut plain = text.to_string();
    let lines = Lines::new(text);
    // Compacting leaves documentation.
    tokens(text, |token, position, _| {
        if let (Token::Comment(comment), Some(start)) = (token, lines.offset(position)) {
            let end = (start + comment.len()).min(text.len());
            plain.replace_range(start..end, &" ".repeat(end - start));
        }
        true
    });
    Engine::new_raw().compact_script(&plain).unwrap_or(plain)
}

/// Shows a script's tokens to `on_token`, until that gives false: each with its position and the number of brackets
/// that are open after it, which is negative where it closes one that is not open.
pub fn tokens(text: &str, mut on_token: impl FnMut(&Token, Position, isize) -> bool) {
    let engine = Engine::new_raw();
    let texts = [text];
    let (tokens, control) = engine.lex(&texts);
    // Of each open bracket, whether it stands in a text: `… ${`.
    let mut open: Vec<bool> = Vec::new();
    let mut in_text = false;
    for (token, position) in tokens {
        let mut depth = open.len() as isize;
        match token {
            Token::LeftBrace | Token::LeftBracket | Token::LeftParen | Token::MapStart => {
                open.push(in_text);
                depth += 1;
            }
            Token::RightBrace | Token::RightBracket | Token::RightParen => {
                // After an expression in it, the text goes on.
                control.borrow_mut().is_within_text = open.pop() == Some(true);
                depth -= 1;
            }
            _ => {}
        }
        in_text = matches!(token, Token::InterpolatedString(_));
        if matches!(token, Token::EOF) || !on_token(&token, position, depth) {
            return;
        }
    }
}

/// A function of a script.
pub struct Function {
    /// Its text without comments and spacing, parameters included.
    pub code: String,
    /// The variables that it captures, in the order of a function pointer's curried values.
    pub captured: Vec<String>,
    /// Variables that it assigns to: its state.
    pub assigned: BTreeSet<String>,
}

/// The function that a pointer calls, if the script compiled as `ast` from `text` defines it.
pub fn find(function: &FnPtr, ast: &AST, text: &str) -> Option<Function> {
    let name = function.fn_name();
    let definition = ast.iter_functions().find(|f| f.name == name)?;
    let start = if function.is_anonymous() {
        offset(text, closure_position(ast, name)?)?
    } else {
        definition_offset(text, name)?
    };
    let code = code_of(first_function(&text[start..]));
    let (mut assigned, mut variable) = (BTreeSet::new(), None);
    tokens(&code, |token, _, _| {
        if matches!(token, Token::Equals) || token.is_op_assignment() {
            assigned.extend(variable.take());
        }
        variable = if let Token::Identifier(name) = token { Some(name.to_string()) } else { None };
        true
    });
    let captured = definition.params.iter().take(function.curry().len()).map(|name| name.to_string()).collect();
    Some(Function { code, captured, assigned })
}

/// Where the closure called `name` is written.
fn closure_position(ast: &AST, name: &str) -> Option<Position> {
    let mut found = None;
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some(ASTNode::Expr(Expr::DynamicConstant(value, position))) = path.last()
            && value.read_lock::<FnPtr>().is_some_and(|f| f.fn_name() == name)
        {
            found = Some(*position);
        }
        found.is_none()
    });
    found
}

/// Where `fn NAME` is written.
fn definition_offset(text: &str, name: &str) -> Option<usize> {
    let (mut start, mut found) = (None, None);
    tokens(text, |token, position, _| {
        if matches!(token, Token::Identifier(of) if of.as_str() == name) {
            found = start;
        }
        start = matches!(token, Token::Fn).then_some(position);
        found.is_none()
    });
    offset(text, found?)
}

/// The closure or function definition that `text` begins with.
fn first_function(text: &str) -> &str {
    let is_closure = text.starts_with('|');
    // Whether the body is a block; unknown before it begins.
    let (mut in_parameters, mut is_block, mut end) = (true, None, text.len());
    let mut count = 0;
    let lines = Lines::new(text);
    tokens(text, |token, position, depth| {
        count += 1;
        if in_parameters {
            // `||` has none, and `|` begins them.
            in_parameters = match token {
                Token::Or => false,
                Token::Pipe => count == 1,
                Token::RightParen => is_closure,
                _ => true,
            };
            return true;
        }
        let block = *is_block.get_or_insert(matches!(token, Token::LeftBrace));
        let at = lines.offset(position).unwrap_or(text.len());
        if depth < 0 || depth == 0 && matches!(token, Token::Comma | Token::SemiColon) {
            end = at;
        } else if depth == 0 && block {
            end = at + 1;
        }
        end == text.len()
    });
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_spacing_do_not_count() {
        let a = "// A note.\nlet x = 1 + 2;   /* here */ print(`a ${x} // no comment`);\n";
        let b = "let x = 1+2;\nprint(`a ${x} // no comment`); // there\n";
        assert_eq!(code_of(a), code_of(b));
        assert_ne!(code_of(b), code_of(&b.replace("no comment", "none")));
        assert_ne!(code_of(b), code_of(&b.replace("1+2", "12")));
        assert_ne!(code_of("let a = \"x  y\";"), code_of("let a = \"x y\";"));
        let documented = "//! A script.\n\n/// Does.\n/** this */\nfn f(x) { `/// ${x} /// y` }";
        assert_eq!(code_of(documented), code_of("fn f(x) { `/// ${x} /// y` }"));
        assert_ne!(code_of(documented), code_of("fn f(x) { `/// ${x} /// z` }"));
    }

    #[test]
    fn a_function_ends_where_it_ends() {
        for (text, function) in [
            ("|x| x + 1, more", "|x| x + 1"),
            ("|| f(a, [b, c]); more", "|| f(a, [b, c])"),
            ("|x, y| { x; `a } ${ [x, `b ${y}`] } }` } more", "|x, y| { x; `a } ${ [x, `b ${y}`] } }` }"),
            ("|x| if x { 1 } else { \"}\" } } more", "|x| if x { 1 } else { \"}\" } "),
            ("|x| /* ) */ #{ a: x, b: '}' }) more", "|x| /* ) */ #{ a: x, b: '}' }"),
            ("fn f(a, b) {\n  a | b // }\n}\nfn g() { }", "fn f(a, b) {\n  a | b // }\n}"),
        ] {
            assert_eq!(first_function(text), function);
        }
    }
}
