//! Files from elsewhere: only regular ones are opened, and no more is read or unpacked than is plausible.
//!
//! A named pipe, a device or a file that grows would otherwise be read for ever; a header that claims too much would
//! end the process, since a failed allocation cannot be caught.

use crate::bail_hint;
use crate::error::{Context as _, Result, bail};
use crate::memory;
use serde_json::Value;
use std::fs::{File, FileType};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The most that a file of text or JSON may have.
pub const MOST_TEXT: u64 = 64 << 20;

/// Opens a regular file; links are followed.
pub fn open(path: &Path) -> Result<File> {
    // A pipe without a writer would otherwise wait for one. For regular files the flag says nothing.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let kind = match &opened {
        Ok(file) => file.metadata(),
        Err(_) => std::fs::metadata(path),
    };
    if let Ok(about) = kind
        && !about.is_file()
    {
        bail_hint!("{} is {}, expected a file", path.display(), words(about.file_type()); "name a regular file");
    }
    opened.with_context(|| format!("cannot read {}", path.display()))
}

fn words(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a named pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// The content of a regular file of at most `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let reading = || format!("cannot read {}", path.display());
    let file = open(path)?;
    let size = file.metadata().with_context(reading)?.len();
    let mut bytes = Vec::new();
    if size <= most {
        bytes = room_for(size as usize).with_context(reading)?;
        file.take(most + 1).read_to_end(&mut bytes).with_context(reading)?;
    }
    if size > most || bytes.len() as u64 > most {
        let size = size.max(bytes.len() as u64);
        bail_hint!(
            "{} has {size} bytes, more than the {most} that are read of such a file", path.display();
            "it is not what its name says, or it is damaged"
        );
    }
    Ok(bytes)
}

/// Room for so many bytes, or an error.
fn room_for(bytes: usize) -> Result<Vec<u8>> {
    let mut room = Vec::new();
    // The system may promise more than there is.
    if bytes as u64 > memory::total() || room.try_reserve_exact(bytes).is_err() {
        bail!("there is no memory for its {bytes} bytes");
    }
    Ok(room)
}

/// The text of a file, without the byte order mark that editors on Windows put before it.
pub fn read_text(path: &Path) -> Result<String> {
    text_of(path, MOST_TEXT)
}

fn text_of(path: &Path, most: u64) -> Result<String> {
    let bytes = read(path, most)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_string()),
        Err(e) => {
            let error = std::io::Error::new(ErrorKind::InvalidData, format!("it is not UTF-8 text: {e}"));
            Err(error).with_context(|| format!("cannot read {}", path.display()))
        }
    }
}

/// The content of a file of JSON.
pub fn read_json(path: &Path) -> Result<Value> {
    read_json_of(path, MOST_TEXT)
}

/// The content of a file of JSON of at most `most` bytes.
pub fn read_json_of(path: &Path, most: u64) -> Result<Value> {
    serde_json::from_str(&text_of(path, most)?).with_context(|| format!("{} is not valid JSON", path.display()))
}

/// How many bytes something of `packed` bytes may unpack to. No image or table shrinks to less than a 64th, but for
/// blank ones, which may be small.
pub fn most_unpacked(packed: u64) -> u64 {
    const ALWAYS: u64 = 256 << 20;
    packed.saturating_mul(64).max(ALWAYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{hint_of, one_line};
    use std::os::unix::net::UnixListener;

    fn complaint<T>(result: Result<T>) -> String {
        let Err(error) = result else { panic!("no error") };
        format!("{} {}", one_line(&error), hint_of(&error).unwrap_or_default())
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let name = std::ffi::CString::new(path("pipe").as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let _listener = UnixListener::bind(path("socket")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("zero.jpg")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        for (name, kind) in [("pipe", "named pipe"), ("socket", "socket"), ("zero.jpg", "device"), ("folder", "folder")]
        {
            let text = complaint(read(&path(name), 100));
            assert!(text.contains(&path(name).display().to_string()) && text.contains(kind), "{text}");
        }
        std::fs::write(path("file"), "content").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        assert_eq!(read(&path("link"), 100).unwrap(), b"content");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jpg");
        // Takes no space on disk.
        File::create(&path).unwrap().set_len(100 << 30).unwrap();
        let text = complaint(read(&path, 1 << 30));
        assert!(text.contains("x.jpg has 107374182400 bytes, more than the 1073741824 "), "{text}");
    }

    #[test]
    fn text_that_is_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        std::fs::write(&path, b"\xff{}").unwrap();
        assert!(complaint(read_text(&path)).contains("x.json: it is not UTF-8 text"));
        std::fs::write(&path, b"\xef\xbb\xbf[1]").unwrap();
        assert_eq!(read_json(&path).unwrap(), serde_json::json!([1]));
        std::fs::write(&path, b"[1").unwrap();
        assert!(complaint(read_json(&path)).contains("x.json is not valid JSON: EOF"));
    }
}
