//! Looking for functions by name, by PyTorch's name, or by what their documentation speaks of.

use super::docs::{FnDoc, Reference};
use crate::error::nearest;
use std::collections::BTreeSet;
use std::fmt::Write;

/// PyTorch's names and ours: the tables of the guide for its users, which is the one place where they stand.
const GUIDE: &str = include_str!("../../docs/from-pytorch.md");

/// The most functions that are listed.
const MOST_LISTED: usize = 40;

/// A row of the guide's tables.
pub struct Known {
    /// PyTorch's name, as `torch.cat`, `F.gelu`, `nn.Linear`, `Tensor.view`.
    pub torch: &'static str,
    /// Our names for it; none where it makes no sense here.
    pub ours: Vec<&'static str>,
    /// What differs, or why there is none.
    pub note: &'static str,
}

/// The rows of the guide's tables that begin with a name of PyTorch's.
pub fn known() -> Vec<Known> {
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split(" | ").collect();
        let [torch, _count, ours, note] = cells[..] else { return None };
        Some(Known {
            torch: torch.trim_end_matches('`'),
            ours: ours.split('`').skip(1).step_by(2).collect(),
            note: note.trim_end_matches('|').trim(),
        })
    };
    GUIDE.lines().filter_map(row).collect()
}

/// The rows of the guide's tables in two columns, there and here, whose first one has the name or words: "`DataLoader`,
/// `ImageFolder`: `data::loader`, `data::open`".
fn rows_that_name(wanted: &str) -> impl Iterator<Item = String> {
    let wanted = wanted.to_lowercase();
    let short = wanted.rsplit(['.', ':']).next().unwrap_or_default().to_string();
    GUIDE.lines().filter_map(move |line| {
        let (there, here) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
        let names = there.to_lowercase();
        let is_named = |name: &str| name == wanted || name.rsplit(['.', '/']).next() == Some(short.as_str());
        let in_words = wanted.contains(' ') && names.contains(wanted.as_str());
        let is_row = !here.contains(" | ") && (in_words || names.split('`').skip(1).step_by(2).any(is_named));
        is_row.then(|| format!("{there}: {here}").replace('`', ""))
    })
}

/// What matches a text, for people to read; or why nothing does.
pub fn search(reference: &Reference, text: &str) -> Result<String, String> {
    let wanted = text.trim().trim_end_matches("()");
    let (known, mut out, mut shown) = (known(), String::new(), BTreeSet::new());
    let short = short_of(wanted);
    let mut named: Vec<&Known> = known.iter().filter(|k| k.torch.eq_ignore_ascii_case(&short)).collect();
    if let (true, Some((_, method))) = (named.is_empty(), short.split_once('.')) {
        // A method of a variable, as x.view.
        named = known.iter().filter(|k| k.torch.strip_prefix("Tensor.") == Some(method)).collect();
    }
    for entry in &named {
        match entry.ours.is_empty() {
            true => _ = writeln!(out, "PyTorch's {} has no counterpart here: {}\n", entry.torch, entry.note),
            false => _ = writeln!(out, "PyTorch's {} is {} here. {}", entry.torch, entry.ours.join(", "), entry.note),
        }
    }
    for row in rows_that_name(wanted) {
        let _ = writeln!(out, "{row}");
    }
    if !out.is_empty() && !out.ends_with("\n\n") {
        out.push('\n');
    }
    let bare = snake(short.rsplit(['.', ':']).next().unwrap_or(&short));
    let ours: Vec<&str> = named.iter().flat_map(|entry| entry.ours.iter().copied()).collect();
    let is_meant = |f: &&FnDoc| match ours.is_empty() {
        true => f.full_name() == wanted || f.plain_name() == bare,
        false => ours.iter().any(|name| f.full_name() == *name || f.full_name() == format!("Tensor.{name}")),
    };
    for f in reference.functions.iter().filter(is_meant) {
        if shown.insert(f.full_name()) {
            out += &reference.print(Some(&f.full_name()))?;
        }
    }
    if ours.is_empty() {
        reference.print_builtin(&bare, &mut out);
    }
    let rest = mentions(reference, wanted, &bare, &shown);
    if !rest.is_empty() {
        let title = if out.is_empty() { "" } else { "Also:\n" };
        let _ = write!(out, "{title}{}", rest.iter().take(MOST_LISTED).cloned().collect::<String>());
        if rest.len() > MOST_LISTED {
            let _ = writeln!(out, "… and {} more", rest.len() - MOST_LISTED);
        }
    }
    if !out.is_empty() {
        return Ok(out);
    }
    let builtin = reference.builtin.iter().map(|f| f.name.clone());
    let names: Vec<String> = reference.functions.iter().map(|f| f.plain_name().to_string()).chain(builtin).collect();
    let of_torch = known.iter().map(|k| k.torch);
    let near = nearest(&bare, names.iter().map(String::as_str)).or_else(|| nearest(&short, of_torch));
    Err(match near {
        Some(near) => format!("nothing is called `{wanted}` or speaks of it; did you mean `{near}`?"),
        None => format!("nothing is called `{wanted}` or speaks of it"),
    })
}

/// A line for each function whose name or documentation has the text, but those shown already: names first.
fn mentions(reference: &Reference, wanted: &str, bare: &str, shown: &BTreeSet<String>) -> Vec<String> {
    let words: Vec<String> = wanted.to_lowercase().split_whitespace().map(String::from).collect();
    let in_name = |name: &str| !bare.is_empty() && name.to_lowercase().contains(bare);
    let in_text = |text: &str| {
        let text = text.to_lowercase();
        !words.is_empty() && words.iter().all(|word| text.contains(word.as_str()))
    };
    let (mut by_name, mut by_text, mut seen) = (Vec::new(), Vec::new(), shown.clone());
    let mut put = |name: String, signature: String, first: &str, options: &str| {
        let list = match (in_name(&name), in_text(&format!("{first} {options}"))) {
            (true, _) => &mut by_name,
            (false, true) => &mut by_text,
            (false, false) => return,
        };
        if seen.insert(name) {
            list.push(format!("{signature}\n    {}\n", sentence(first)));
        }
    };
    for f in &reference.functions {
        let options = f.options.iter().map(|option| format!(" {} {}", option.name, option.doc)).collect::<String>();
        put(f.full_name(), f.signature(), &f.doc.join(" "), &options);
    }
    for module in &reference.stdlib {
        for f in &module.functions {
            let name = format!("{}::{}", module.path, f.name);
            let signature = format!("{name}({})", f.params.join(", "));
            let options = f.options.iter().map(|option| format!(" {} {}", option.name, option.doc)).collect::<String>();
            put(name, signature, &f.doc, &options);
        }
    }
    by_name.into_iter().chain(by_text).collect()
}

/// The first sentence of a documentation.
fn sentence(doc: &str) -> String {
    let doc = doc.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = doc.find(". ").map_or(doc.len(), |at| at + 1);
    doc[..end].to_string()
}

/// PyTorch's name as its users abbreviate it: `F.gelu` of `torch.nn.functional.gelu`.
fn short_of(name: &str) -> String {
    const LONG: [(&str, &str); 6] = [
        ("torch.nn.functional.", "F."),
        ("nn.functional.", "F."),
        ("functional.", "F."),
        ("torch.nn.", "nn."),
        ("torch.Tensor.", "Tensor."),
        ("th.", "torch."),
    ];
    let long = LONG.iter().find_map(|(long, short)| Some(format!("{short}{}", name.strip_prefix(long)?)));
    long.unwrap_or_else(|| name.to_string())
}

/// `BatchNorm2d` as batch_norm2d, `GELU` as gelu, `CrossEntropyLoss` as cross_entropy_loss.
fn snake(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, c) in letters.iter().enumerate() {
        let starts = c.is_uppercase()
            && i > 0
            && (letters[i - 1].is_lowercase() || letters.get(i + 1).is_some_and(|next| next.is_lowercase()))
            && letters[i - 1].is_alphanumeric();
        if starts {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    match out.as_str() {
        "re_lu" | "re_lu6" | "si_lu" | "p_re_lu" | "leaky_re_lu" => {
            out.replace("re_lu", "relu").replace("si_lu", "silu").replace("p_relu", "prelu")
        }
        _ => out,
    }
}
