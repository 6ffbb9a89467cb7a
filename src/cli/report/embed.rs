//! Pictures embedded in the page.

use crate::run::inside;
use crate::untrusted;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use std::path::Path;

/// Bytes of one picture, and of all together, that a page takes; it should open on a phone.
const MOST: (u64, u64) = (4 << 20, 24 << 20);

/// Bytes of the pictures embedded so far.
#[derive(Default)]
pub struct Budget {
    spent: u64,
}

impl Budget {
    /// A picture of the run, embedded; or in words why it is not.
    pub fn picture(&mut self, dir: &Path, name: &str, alt: &str) -> Markup {
        match self.data_uri(dir, name) {
            Ok(uri) => html! { img src=(uri) alt=(alt); },
            Err(why) => html! { p.note { (name) ": " (why) } },
        }
    }

    fn data_uri(&mut self, dir: &Path, name: &str) -> Result<String, String> {
        // A page must not carry files from elsewhere, whatever evaluation.json says and wherever links lead.
        let Ok(file) = inside::path_in(dir, Path::new(name)) else {
            return Err("not shown: it is outside the run directory".into());
        };
        let bytes = std::fs::metadata(&file).map_err(|e| format!("not shown: {e}"))?.len();
        if bytes > MOST.0 {
            return Err(format!("not shown: its size is {}, more than {}", bytes_words(bytes), bytes_words(MOST.0)));
        }
        if self.spent + bytes > MOST.1 {
            return Err(format!("not shown: the pictures before it take up {} already", bytes_words(self.spent)));
        }
        let content = untrusted::read(&file, MOST.0).map_err(|e| format!("not shown: {e:#}"))?;
        let Some(kind) = kind_of(&content) else {
            return Err("not shown: it is not a PNG, JPEG or WebP file".into());
        };
        self.spent += bytes;
        Ok(format!("data:{kind};base64,{}", STANDARD.encode(content)))
    }
}

/// The type of a picture, by its content. None of these can hold a script, as SVG can.
fn kind_of(content: &[u8]) -> Option<&'static str> {
    match content {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// A size as people write it.
pub fn bytes_words(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if size < 10.0 => format!("{size:.1} {}", UNITS[unit]),
        _ => format!("{size:.0} {}", UNITS[unit]),
    }
}
