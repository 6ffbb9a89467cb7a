//! The page's HTTP, by hyper. An answer is made in a thread of its own, since it reads files.

use super::answer::Answer;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at the same time, of which browsers open some before they need them; others wait.
const MOST_CONNECTIONS: usize = 128;
/// Bytes of a request, and its headers.
const MOST_BYTES: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
/// How long a request may take to arrive, and a connection may stay without one.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause after a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Makes the answers.
pub type Answering = dyn Fn(&Request<Incoming>) -> Answer + Send + Sync;

/// Answers requests for ever.
pub fn serve(listener: std::net::TcpListener, answer: Arc<Answering>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let place = places.clone().acquire_owned().await.expect("it is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        // A browser that has gone away is no error.
                        let _ = converse(stream, answer).await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    })
}

/// Answers the requests of a connection.
async fn converse(stream: TcpStream, answer: Arc<Answering>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let answer = tokio::task::spawn_blocking(move || answer(&request)).await;
            let answer = answer.unwrap_or_else(|_| Answer::refused(500, "the answer could not be made"));
            Ok::<Response<Full<Bytes>>, Infallible>(answer.response())
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MOST_BYTES)
        .max_headers(MOST_HEADERS)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
