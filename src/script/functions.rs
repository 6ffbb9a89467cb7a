//! What scripts and their functions do, as text that comments and spacing leave unchanged.

use super::ast;
use rhai::{AST, ASTNode, Engine, Expr, FnPtr, Position, Token};

/// A script's text without comments and spacing; as it is where it is no script.
pub fn code_of(text: &str) -> String {
    Engine::new_raw().compact_script(text).unwrap_or_else(|_| text.to_string())
}

/// A function of a script.
pub struct Function {
    /// Its text without comments and spacing, parameters included.
    pub code: String,
    /// The variables that it captures, in the order of a function pointer's curried values.
    pub captured: Vec<String>,
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
    let captured = definition.params.iter().take(function.curry().len()).map(|name| name.to_string()).collect();
    Some(Function { code, captured })
}

/// Where the closure called `name` is written.
fn closure_position(ast: &AST, name: &str) -> Option<Position> {
    let mut found = None;
    ast::walk(ast, &mut |path| {
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
    let engine = Engine::new_raw();
    let mut before = None;
    let scripts = [text];
    engine.lex(&scripts).0.find_map(|(token, position)| {
        let is_name = matches!(&token, Token::Identifier(found) if found.as_str() == name);
        let start = before.take().filter(|_| is_name);
        before = matches!(token, Token::Fn).then_some(position);
        start
    }).and_then(|position| offset(text, position))
}

/// The closure or function definition that `text` begins with.
fn first_function(text: &str) -> &str {
    let engine = Engine::new_raw();
    let scripts = [text];
    let (mut tokens, control) = engine.lex(&scripts);
    // What is open, each with whether it is inside a text: `… ${`.
    let mut open: Vec<bool> = Vec::new();
    let (mut in_parameters, mut is_block, mut in_text) = (true, None, false);
    let closure = text.starts_with('|');
    while let Some((token, position)) = tokens.next() {
        let first = position.position() == Some(1) && position.line() == Some(1);
        match token {
            // `||` has no parameters.
            Token::Or if in_parameters => in_parameters = false,
            Token::Pipe if in_parameters && !first => in_parameters = false,
            Token::RightParen if in_parameters && !closure => in_parameters = false,
            _ if in_parameters => {}
            Token::LeftBrace | Token::LeftBracket | Token::LeftParen | Token::MapStart => {
                is_block.get_or_insert(matches!(token, Token::LeftBrace));
                open.push(std::mem::take(&mut in_text));
            }
            Token::RightBrace | Token::RightBracket | Token::RightParen if open.is_empty() => {
                return &text[..offset(text, position).unwrap_or(text.len())];
            }
            Token::RightBrace | Token::RightBracket | Token::RightParen => {
                if open.pop() == Some(true) {
                    control.borrow_mut().is_within_text = true;
                }
                if open.is_empty() && is_block == Some(true) {
                    return &text[..offset(text, position).map_or(text.len(), |end| end + 1)];
                }
            }
            Token::Comma | Token::SemiColon | Token::EOF if open.is_empty() => {
                return &text[..offset(text, position).unwrap_or(text.len())];
            }
            Token::InterpolatedString(_) => {
                is_block.get_or_insert(false);
                in_text = true;
            }
            _ => {
                is_block.get_or_insert(false);
            }
        }
    }
    text
}

/// The byte at a line and column.
fn offset(text: &str, position: Position) -> Option<usize> {
    let (line, column) = (position.line()?, position.position()?);
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let before: usize = text[start..].chars().take(column - 1).map(char::len_utf8).sum();
    Some(start + before)
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
