//! Fetching and unpacking wheels, with progress on the terminal and errors that say what to do.

use crate::wheels::Wheel;
use anyhow::{Context, Result, anyhow, bail};
use std::{
    env,
    fs::{self, File},
    io::{IsTerminal, Write},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Downloads each wheel into `staging` and unpacks what is wanted of it into `dest`. One wheel at a time, so that the
/// archives never fill the disk together.
pub fn fetch(wheels: &[Wheel], staging: &Path, dest: &Path) -> Result<()> {
    let mut progress = Progress::new(wheels.iter().map(|w| w.bytes).sum());
    for wheel in wheels {
        download(wheel, staging, &mut progress)?;
        unpack(wheel, staging, dest, &mut progress)?;
        progress.finished += wheel.bytes;
    }
    Ok(())
}

fn download(wheel: &Wheel, staging: &Path, progress: &mut Progress) -> Result<()> {
    let requirements = staging.join("requirements.txt");
    fs::write(&requirements, wheel.requirement())?;
    // Of pip's own, so that the wheel in the making can be measured and a small /tmp does not matter.
    let temporary = staging.join("tmp");
    for attempt in 1.. {
        fs::create_dir_all(&temporary)?;
        let mut begun = false;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--require-hashes"])
            .args(["--progress-bar=off", "--disable-pip-version-check", "--no-input"])
            .args(["--implementation", "cp", "--python-version", &wheel.python()])
            .args(wheel.platforms().flat_map(|p| ["--platform", p]))
            .arg("--requirement")
            .arg(&requirements)
            .arg("--dest")
            .arg(staging)
            .env("TMPDIR", &temporary)
            // Settings of the user's pip that are meant for installing.
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            .env_remove("PIP_CONSTRAINT");
        if env::var_os("PIP_RETRIES").is_none() {
            pip.env("PIP_RETRIES", "3");
        }
        let (status, output) = watch(&mut pip, staging, || {
            let bytes = largest(staging, &wheel.file).min(wheel.bytes);
            progress.show(Step::Downloading(bytes, wheel.bytes));
            begun |= bytes > 0;
        })?;
        progress.clear();
        if status.success() && staging.join(&wheel.file).is_file() {
            return Ok(());
        }
        let _ = fs::remove_dir_all(&temporary);
        // Large files over an unreliable connection: a download that had started is worth another try.
        if begun && attempt < 3 && !status.success() && is_network_trouble(&output) {
            eprintln!("The connection broke; trying {} again.", wheel.name());
            continue;
        }
        return Err(explain_pip(wheel, status, &output));
    }
    unreachable!("the loop returns")
}

fn unpack(wheel: &Wheel, staging: &Path, dest: &Path, progress: &mut Progress) -> Result<()> {
    let archive = staging.join(&wheel.file);
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("unpack.py")]).arg(&archive).arg(dest).arg(&wheel.strip).args(&wheel.patterns);
    let (status, output) = watch(&mut python, staging, || progress.show(Step::Unpacking(wheel.name())))?;
    progress.clear();
    if !status.success() {
        if is_full(&output) {
            return Err(no_space());
        }
        let line = output.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("no message");
        bail!("cannot unpack {}: {line}{}", wheel.name(), killed(status));
    }
    fs::remove_file(archive)?;
    Ok(())
}

/// Runs a command to its end with its output in a file, and calls `tick` every so often.
fn watch(command: &mut Command, staging: &Path, mut tick: impl FnMut()) -> Result<(ExitStatus, String)> {
    let log = staging.join("output.txt");
    let file = File::create(&log)?;
    let mut child =
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn().context("cannot start python3")?;
    let mut pause = Duration::from_millis(10);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
        tick();
    };
    Ok((status, String::from_utf8_lossy(&fs::read(&log)?).into_owned()))
}

/// The size of a file wherever it is below a folder, the largest if there are several: pip writes it under a
/// temporary folder and copies it from there.
fn largest(folder: &Path, name: &str) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.file_type() {
        // The layout in the making has thousands of files, none of interest.
        Ok(t) if t.is_dir() && entry.file_name() != "layout" => largest(&entry.path(), name),
        Ok(t) if t.is_file() && entry.file_name() == name => entry.metadata().map_or(0, |m| m.len()),
        _ => 0,
    };
    entries.map(size).max().unwrap_or(0)
}

enum Step<'a> {
    /// Bytes so far of a wheel, and all of them.
    Downloading(u64, u64),
    Unpacking(&'a str),
}

/// One line that is rewritten on a terminal, a new line every few seconds elsewhere.
struct Progress {
    terminal: bool,
    total: u64,
    /// Bytes of the wheels that are done with.
    finished: u64,
    /// Time spent downloading, for the speed.
    downloading: Duration,
    last_tick: Instant,
    last_shown: Instant,
}

impl Progress {
    fn new(total: u64) -> Self {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Progress { terminal, total, finished: 0, downloading: Duration::ZERO, last_tick: now, last_shown: now }
    }

    fn show(&mut self, step: Step) {
        let tick = self.last_tick.elapsed();
        self.last_tick = Instant::now();
        let line = match step {
            Step::Downloading(bytes, all) => {
                // Not while pip looks the wheel up, or checks and stores it.
                if bytes > 0 && bytes < all {
                    self.downloading += tick;
                }
                let done = (self.finished + bytes) as f64 / 1e6;
                let speed = done / self.downloading.as_secs_f64().max(0.001);
                format!("  {done:.0} of {:.0} MB, {speed:.1} MB/s", self.total as f64 / 1e6)
            }
            Step::Unpacking(name) => format!("  unpacking {name}"),
        };
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else if self.last_shown.elapsed() >= Duration::from_secs(5) {
            self.last_shown = Instant::now();
            eprintln!("{line}");
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn explain_pip(wheel: &Wheel, status: ExitStatus, output: &str) -> anyhow::Error {
    let name = wheel.name();
    let has = |text: &str| output.contains(text);
    if is_full(output) {
        return no_space();
    }
    if has("DO NOT MATCH THE HASHES") {
        return anyhow!(
            "{name} arrived, but it is not the file that this project pins (its SHA-256 differs). Something between \
             here and the package index changed or damaged it; check pip's index settings and try again"
        );
    }
    if is_network_trouble(output) {
        return anyhow!(
            "pip could not reach its package index to download {name}. Check the connection, and pip's proxy and index \
             settings (`python3 -m pip config list`), then run the same command again. Without a network, set LIBTORCH \
             to a libtorch folder"
        );
    }
    if has("No module named pip") {
        return anyhow!(
            "`python3` has no pip; install it (`apt install python3-pip`, or `python3 -m ensurepip --user`)"
        );
    }
    if has("no such option") {
        return anyhow!("this pip is too old; update it with `python3 -m pip install --user --upgrade pip`");
    }
    if has("No matching distribution found") {
        return anyhow!(
            "pip did not find {} in its package index. Check the connection; if the index is a mirror \
             (`python3 -m pip config list`), have that file added to it, or use another index",
            wheel.file
        );
    }
    let mut errors: Vec<_> = output.lines().filter(|l| l.starts_with("ERROR")).collect();
    if errors.is_empty() {
        errors = output.lines().filter(|l| !l.trim().is_empty()).collect();
        errors = errors.split_off(errors.len().saturating_sub(3));
    }
    let errors = if errors.is_empty() { "it said nothing".into() } else { errors.join("\n  ") };
    anyhow!("pip could not download {name}{}: {errors}", killed(status))
}

/// Whether a download failed for want of a working connection.
fn is_network_trouble(output: &str) -> bool {
    // What pip prints, release after release; names from urllib3.
    let signs = [
        "after connection broken by",
        "Failed to establish a new connection",
        "Max retries exceeded",
        "Connection aborted",
        "ConnectionResetError",
        "IncompleteRead",
        "ReadTimeoutError",
        "Read timed out",
        "ProxyError",
        "SSLError",
        "NetworkConnectionError",
        "IncompleteDownloadError",
        "Download failed because not enough bytes",
    ];
    signs.iter().any(|s| output.contains(s))
}

fn is_full(output: &str) -> bool {
    ["No space left on device", "[Errno 28]", "Disk quota exceeded"].iter().any(|s| output.contains(s))
}

pub fn no_space() -> anyhow::Error {
    anyhow!(
        "the disk of the cache filled up in the middle of the set-up; the unfinished files were removed. Free some space, \
         or set NEPA_CACHE to a folder on another disk, and run the same command again"
    )
}

fn killed(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    status.signal().map_or(String::new(), |s| format!(" (stopped by signal {s})"))
}
