//! `nepa watch`: a page on this machine that shows runs while they train.

mod answer;
mod http;
mod lines;
mod page;
mod requests;
mod run;
mod runs;

use crate::bail_hint;
use crate::error::{Result, bail};
use crate::files::beside;
use crate::output::out;
use crate::run::signals::Interrupt;
use clap::Args;
use requests::Watch;
use runs::Root;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often it looks whether a signal came.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Args)]
#[command(after_help = HELP)]
pub struct WatchArgs {
    /// A run directory, or a folder with runs in it, such as runs/ or the directory of a sweep.
    path: PathBuf,
    /// The port; 0: one that is free.
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,
    /// The address that it listens at. With one that others can reach, such as 0.0.0.0, the page needs the token of the
    /// address that is printed.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
}

const HELP: &str = "From another machine: ssh -L 8080:localhost:8080 THIS_MACHINE nepa watch DIR --port 8080, \
                    then open http://localhost:8080/.

Exit code: 1 if it cannot start, 130 after Ctrl-C.";

/// Serves the page until a signal comes; gives its exit code.
pub fn watch(args: &WatchArgs) -> Result<u8> {
    let path = &args.path;
    if !path.exists() {
        bail_hint!("{} does not exist", path.display(); "expected a run directory, or a folder with runs in it{}", beside(path));
    }
    if !path.is_dir() {
        bail_hint!("{} is a file", path.display(); "give the folder that `nepa run` made, or one with such folders in it");
    }
    let interrupt = Interrupt::default();
    interrupt.listen()?;
    let listener = bind(args)?;
    let at = listener.local_addr()?;
    let root = Root::new(path);
    let found = root.names()?.len();
    let token = (!args.host.is_loopback()).then(token);
    let s = if found == 1 { "" } else { "s" };
    out!("{found} run{s} in {}; Ctrl-C ends this: {}", path.display(), address(at, token.as_deref()));
    let watch = Watch { root, port: at.port(), token };
    let server = std::thread::spawn(move || http::serve(listener, Arc::new(move |request| watch.answer(request))));
    while interrupt.exit_code().is_none() {
        if server.is_finished() {
            let why = server.join().map(|ended| ended.err().map_or_else(|| "it ended".into(), |e| e.to_string()));
            bail!("cannot serve the page: {}", why.unwrap_or_else(|_| "an internal error".into()));
        }
        std::thread::sleep(LOOK);
    }
    Ok(interrupt.exit_code().map_or(0, |code| code as u8))
}

fn bind(args: &WatchArgs) -> Result<TcpListener> {
    let wanted = SocketAddr::new(args.host, args.port);
    match TcpListener::bind(wanted) {
        Ok(listener) => Ok(listener),
        Err(e) if e.kind() == ErrorKind::AddrInUse => bail_hint!(
            "port {} of {} is in use by another program", args.port, args.host;
            "give another --port, or none: a free one is taken then"
        ),
        Err(e) if e.kind() == ErrorKind::AddrNotAvailable => bail_hint!(
            "--host {}: this machine has no such address", args.host;
            "127.0.0.1 is for this machine alone, 0.0.0.0 for all that can reach it"
        ),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => bail_hint!(
            "port {} is not open to you: {e}", args.port; "ports from 1024 on are"
        ),
        Err(e) => bail!("cannot listen at {wanted}: {e}"),
    }
}

/// 128 random bits, as letters.
fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// What to open in a browser.
fn address(at: SocketAddr, token: Option<&str>) -> String {
    let token = token.map(|token| format!("?token={token}")).unwrap_or_default();
    if at.ip().is_unspecified() {
        let uname = rustix::system::uname();
        return format!("http://{}:{}/{token}", uname.nodename().to_string_lossy(), at.port());
    }
    format!("http://{at}/{token}")
}
