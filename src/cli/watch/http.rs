//! HTTP as far as the page needs it: requests without a body, one for each connection.

use super::answer::Answer;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Connections at the same time, of which browsers open some before they need them; others are closed.
const MOST_CONNECTIONS: usize = 128;
/// Bytes of a request, and its headers.
const MOST_BYTES: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
/// How long a request may take to arrive, and a part of an answer to leave.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause after a connection that could not be taken, of too many.
const PAUSE: Duration = Duration::from_millis(100);

/// A request.
pub struct Request {
    pub method: String,
    /// The path, and what stands after it.
    pub target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Answers requests for ever, each connection in a thread of its own: one that is idle keeps nobody waiting.
pub fn serve(listener: &TcpListener, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
    let (answer, open) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(PAUSE);
            continue;
        };
        let (answer, open) = (answer.clone(), open.clone());
        if open.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let taken = open.clone();
        let body = move || {
            // A browser that has gone away is no error.
            let _ = converse(stream, &*answer);
            taken.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("watch".into()).spawn(body).is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Reads a request and writes its answer.
fn converse(mut stream: TcpStream, answer: &impl Fn(&Request) -> Answer) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let started = Instant::now();
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    let answer = loop {
        let read = stream.read(&mut part)?;
        if read == 0 || started.elapsed() > PATIENCE {
            return Ok(());
        }
        bytes.extend(&part[..read]);
        match parsed(&bytes) {
            Ok(Some(request)) => break answer(&request),
            Ok(None) if bytes.len() <= MOST_BYTES => {}
            Ok(None) => break Answer::refused(431, "the request is too long"),
            Err(why) => break Answer::refused(400, &format!("this is no HTTP request: {why}")),
        }
    };
    stream.write_all(&answer.bytes())?;
    stream.shutdown(Shutdown::Write)
}

/// The request, once it is whole.
fn parsed(bytes: &[u8]) -> Result<Option<Request>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(bytes)?.is_partial() {
        return Ok(None);
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(Some(Request {
        method: request.method.unwrap_or_default().into(),
        target: request.path.unwrap_or_default().into(),
        headers: request.headers.iter().map(|header| (header.name.into(), text(header.value))).collect(),
    }))
}
