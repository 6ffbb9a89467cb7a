//! Text from files, names and messages, made safe to show; numbers in words.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text with what would steer a terminal, or turn the order of letters around, written as an escape: `\x1b`,
/// `\u{202e}`. Newlines and tabs stay as they are. To be used where text leaves for a terminal, a log or a page, once.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut letters = text.chars().peekable();
    while let Some(c) = letters.next() {
        let ends_line = c == '\r' && letters.peek() == Some(&'\n');
        match u32::from(c) {
            _ if !is_hidden(c) || ends_line => out.push(c),
            byte @ 0..=0xff => drop(write!(out, "\\x{byte:02x}")),
            code => drop(write!(out, "\\u{{{code:x}}}")),
        }
    }
    Cow::Owned(out)
}

/// A word as a shell reads it.
pub fn shell_word(word: &str) -> Cow<'_, str> {
    match !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./:=+,@%".contains(c)) {
        true => Cow::Borrowed(word),
        false => Cow::Owned(format!("'{}'", word.replace('\'', r"'\''"))),
    }
}

/// Control characters but newline and tab, the controls of writing direction, and what XML cannot hold.
fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        '\u{fffe}' | '\u{ffff}' => true,
        _ => c.is_control(),
    }
}

/// A number of bytes: "3.4 kB", "147 GB".
pub fn bytes(n: f64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let step = (0..units.len() - 1).find(|step| n < 999.5 * 1000f64.powi(*step as i32)).unwrap_or(units.len() - 1);
    let value = n / 1000f64.powi(step as i32);
    let digits = if step == 0 || value >= 99.5 { 0 } else { 1 };
    format!("{value:.digits$} {}", units[step])
}

#[cfg(test)]
mod tests {
    use super::visible;
    use std::borrow::Cow;

    #[test]
    fn what_steers_a_terminal_is_shown_as_an_escape() {
        for (text, shown) in [
            ("a\x1b[2Jb\x07", "a\\x1b[2Jb\\x07"),
            ("\u{9b}31m\u{7f}\0", "\\x9b31m\\x7f\\x00"),
            ("gpj.\u{202e}exe\u{2066}", "gpj.\\u{202e}exe\\u{2066}"),
            ("over\rwritten\r\nline", "over\\x0dwritten\r\nline"),
            ("\u{ffff}", "\\u{ffff}"),
        ] {
            assert_eq!(visible(text), shown);
            assert_eq!(visible(&visible(text)), shown, "twice is once");
        }
    }

    #[test]
    fn other_text_stays_as_it_is() {
        let text = "ä → 漢字 🦀, \"quoted\" \\x1b\n\ttab";
        assert!(matches!(visible(text), Cow::Borrowed(same) if same == text));
    }
}
