//! A user at a terminal: a folder of their own, the real `nepa`, and what it said.
//!
//! Every command is killed after a deadline, and every answer is checked for what no user may ever
//! see (a panic, a C++ stack, a death by signal) before a test looks at it.

#[cfg(target_os = "linux")]
pub mod faults;
#[cfg(target_os = "linux")]
pub mod gpu_faults;
mod outcome;
#[cfg(target_os = "linux")]
pub mod simulated_cuda;

pub use outcome::{Outcome, TIMING, assert_checkpoints_whole, copy, files, is_unfinished, outcome};

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a command may take; a minute unless set before: long enough for a loaded machine, short enough that a command
/// which hangs is a failed test.
pub static DEADLINE: OnceLock<Duration> = OnceLock::new();

fn deadline() -> Duration {
    *DEADLINE.get_or_init(|| Duration::from_secs(60))
}

/// What must not reach a user, whatever they did.
const NEVER_SHOWN: &[&str] = &[
    "panicked",
    "RUST_BACKTRACE",
    "internal fault",
    "stack backtrace",
    "Exception raised",
    "frame #",
    "c10::",
    ".cpp:",
];

/// A path inside the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A folder with the reference implementation's model and numbers.
pub fn golden(name: &str) -> String {
    repository("tests/fixtures/model").join(name).display().to_string()
}

/// A data set of the repository, in one of its layouts.
pub fn golden_data(layout: &str) -> String {
    repository("tests/fixtures/data").join(layout).display().to_string()
}

/// An odd picture of the repository.
pub fn odd(name: &str) -> Vec<u8> {
    std::fs::read(repository("tests/fixtures/images-odd").join(name)).unwrap()
}

/// A folder `d` with one class, `all`, of the odd pictures with these names.
pub fn with_odd(names: &[&str]) -> Folder {
    let folder = Folder::new();
    for name in names {
        folder.write(&format!("d/all/{name}"), odd(name));
    }
    folder
}

/// Names of all golden model folders.
pub fn golden_names() -> Vec<String> {
    names_in(&repository("tests/fixtures/model"))
}

/// The Fashion-MNIST that comes with the repository.
pub fn fashion() -> String {
    repository("examples/data/fashion-mnist").display().to_string()
}

/// A configuration in which everything is small: 4 patches, 2 blocks of width 8.
pub const TINY: &str = "#{ image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 2, \
                        num_attention_heads: 2, intermediate_size: 16 }";

/// Runs a script that needs no files.
pub fn run(script: &str) -> Said {
    Folder::new().run(script)
}

/// File names in a folder, sorted; none where there is no such folder.
pub fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether the calling test has this process for itself. If not, runs it again in one of its own, which must succeed;
/// then nothing is left for the caller to do. `test` is its name, as in `memory::a_step`.
pub fn alone(test: &str) -> bool {
    const ALONE: &str = "NEPA_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args([test, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{test}, in a process of its own: {text}");
    false
}

/// A program without what the environment of the tests would change in it.
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_remove("NEPA_STDLIB").env_remove("RUST_BACKTRACE");
    command
}

/// Whether the runs that tests start for the CPU are on the simulated CUDA.
pub fn on_cuda() -> bool {
    #[cfg(target_os = "linux")]
    return simulated_cuda::everywhere();
    #[cfg(not(target_os = "linux"))]
    false
}

/// The device of the runs that tests start, which is the CPU unless NEPA_TEST_DEVICE says otherwise, and the environment
/// that it needs.
pub fn test_device() -> (&'static str, Vec<(&'static str, String)>) {
    #[cfg(target_os = "linux")]
    if on_cuda() {
        // One for each process of any test.
        let gpus = ("NEPA_SIMULATED_CUDA_DEVICES", "8".to_string());
        return ("cuda", [simulated_cuda::environment(), vec![gpus]].concat());
    }
    ("cpu", Vec::new())
}

/// The arguments of nepa, or where NEPA_TEST_DEVICE says so, those with which it runs on the simulated CUDA what a test
/// runs on the CPU.
fn on_test_device<'a>(command: &mut Command, args: &[&'a str]) -> Vec<&'a str> {
    let mut args = args.to_vec();
    let (device, environment) = test_device();
    command.envs(environment);
    let named = args.iter().position(|arg| *arg == "--device");
    if let Some(named) = named.and_then(|at| args.get_mut(at + 1)).filter(|named| **named == "cpu") {
        *named = device;
    }
    args
}

/// A temporary folder in which commands run.
pub struct Folder {
    dir: tempfile::TempDir,
    /// Whether NEPA_TEST_DEVICE has no say.
    on_cpu: bool,
}

impl Folder {
    pub fn new() -> Self {
        Folder { dir: tempfile::tempdir().unwrap(), on_cpu: false }
    }

    /// One for a test that expects a CPU, and says why. It gives the bits of the simulated CUDA: blocks are computed by ATen's
    /// operations, as there.
    pub fn on_cpu() -> Self {
        Folder { on_cpu: true, ..Folder::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, with the folders above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    /// File names in a folder of this folder ("" for itself), sorted.
    pub fn names(&self, dir: &str) -> Vec<String> {
        names_in(&self.path(dir))
    }

    /// A copy of a golden model folder that a test may damage.
    pub fn copy_golden(&self, name: &str, to: &str) {
        for file in names_in(Path::new(&golden(name))) {
            self.write(&format!("{to}/{file}"), std::fs::read(Path::new(&golden(name)).join(&file)).unwrap());
        }
    }

    /// Runs nepa in this folder.
    pub fn nepa(&self, args: &[&str]) -> Said {
        self.start(args, &[]).finish()
    }

    /// Runs nepa in this folder with more environment variables.
    pub fn nepa_with(&self, env: &[(&str, &str)], args: &[&str]) -> Said {
        self.start(args, env).finish()
    }

    /// Runs a script as recipe.rhai, on one thread of the CPU.
    pub fn run(&self, script: &str) -> Said {
        self.run_with(script, &[])
    }

    /// Runs a script as recipe.rhai with more arguments.
    pub fn run_with(&self, script: &str, args: &[&str]) -> Said {
        self.write("recipe.rhai", script);
        let mut all = vec!["run", "recipe.rhai", "--device", "cpu"];
        if !args.contains(&"--threads") {
            all.extend(["--threads", "1"]);
        }
        all.extend(args);
        self.nepa(&all)
    }

    /// Starts nepa in this folder without waiting for it.
    pub fn start(&self, args: &[&str], env: &[(&str, &str)]) -> Running {
        let mut command = clean(env!("CARGO_BIN_EXE_nepa"));
        let args = if self.on_cpu {
            command.env("NEPA_CPU_KERNELS", "0");
            args.to_vec()
        } else {
            on_test_device(&mut command, args)
        };
        self.spawn(command.args(args).envs(env.iter().copied()))
    }

    /// Starts a line of the shell in this folder, in which "$nepa" is the program.
    pub fn shell(&self, line: &str) -> Running {
        self.spawn(clean("bash").args(["-c", line]).env("nepa", env!("CARGO_BIN_EXE_nepa")))
    }

    fn spawn(&self, command: &mut Command) -> Running {
        let mut child = command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        let stdout = std::thread::spawn(move || {
            let mut all = String::new();
            for line in out.lines().map_while(Result::ok) {
                all += &format!("{line}\n");
                let _ = sender.send(line);
            }
            all
        });
        let mut err = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = err.read_to_end(&mut all);
            String::from_utf8_lossy(&all).into_owned()
        });
        let words = command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
        let command = format!("{} {}", command.get_program().display(), words.join(" "));
        Running { command, child, lines, stdout: Some(stdout), stderr: Some(stderr), started: Instant::now() }
    }
}

/// A command under way.
pub struct Running {
    command: String,
    child: Child,
    lines: Receiver<String>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    started: Instant,
}

impl Running {
    /// Waits until a line is printed.
    pub fn wait_for(&self, line: &str) -> &Self {
        loop {
            match self.lines.recv_timeout(deadline()) {
                Ok(found) if found == line => return self,
                Ok(_) => {}
                Err(e) => panic!("{} never printed `{line}`: {e}", self.command),
            }
        }
    }

    /// The next line that is printed.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(deadline()).unwrap_or_else(|e| panic!("{} prints no line: {e}", self.command))
    }

    pub fn signal(&self, signal: i32) -> &Self {
        // SAFETY: a plain system call on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
        self
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processes that it has started as a launcher, by rank.
    pub fn ranks(&self) -> Vec<i32> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().flatten();
        let lists = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        let lists: Vec<String> = lists.collect();
        let pids = lists.iter().flat_map(|list| list.split_whitespace()).map(|pid| pid.parse().unwrap());
        let rank = |pid: i32| {
            let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let env = String::from_utf8_lossy(&env).into_owned();
            env.split('\0').find_map(|v| v.strip_prefix("RANK=")).map(|r| r.parse::<usize>().unwrap())
        };
        let mut pids: Vec<(usize, i32)> = pids.filter_map(|pid| Some((rank(pid)?, pid))).collect();
        pids.sort();
        pids.into_iter().map(|(_, pid)| pid).collect()
    }

    /// Whether the command ends by itself before a moment.
    pub fn ended_before(&mut self, moment: Instant) -> bool {
        while Instant::now() < moment {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Waits for the end of a command that was sent a signal; its exit code, where it came to one.
    pub fn killed(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Waits for the end, to which it comes by itself.
    pub fn finish(self) -> Said {
        self.end().said()
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        let mut late = false;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > deadline() {
                late = true;
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let said = Said {
            command: self.command.clone(),
            code: status.code(),
            stdout: self.stdout.take().unwrap().join().unwrap(),
            stderr: self.stderr.take().unwrap().join().unwrap(),
        };
        assert!(!late, "did not end within {:?}: {said}", deadline());
        for text in NEVER_SHOWN {
            assert!(!said.stdout.contains(text) && !said.stderr.contains(text), "shows `{text}`: {said}");
        }
        if status.signal() == Some(libc::SIGKILL) {
            return Ended::Killed(said);
        }
        assert!(said.code.is_some(), "killed by a signal ({status}): {said}");
        Ended::Said(said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended, and what it had said.
pub enum Ended {
    /// By itself.
    Said(Said),
    /// By SIGKILL.
    Killed(Said),
}

impl Ended {
    /// What a command said that ended by itself.
    #[track_caller]
    pub fn said(self) -> Said {
        match self {
            Ended::Said(said) => said,
            Ended::Killed(said) => panic!("killed by SIGKILL: {said}"),
        }
    }
}

/// What a command said, and its exit code.
pub struct Said {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Said { command, code, stdout, stderr } = self;
        write!(f, "\n$ {command}\n{stdout}---- stderr\n{stderr}---- exit code {code:?}")
    }
}

impl Said {
    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        assert_eq!(self.code, Some(0), "should succeed: {self}");
        self
    }

    /// Ended with this exit code, which is not 0.
    #[track_caller]
    pub fn fails(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "should fail: {self}");
        self
    }

    /// Every piece is in stderr.
    #[track_caller]
    pub fn says(&self, pieces: &[&str]) -> &Self {
        for piece in pieces {
            assert!(self.stderr.contains(piece), "should say `{piece}`: {self}");
        }
        self
    }

    /// Every piece is in stdout.
    #[track_caller]
    pub fn prints(&self, pieces: &[&str]) -> &Self {
        for piece in pieces {
            assert!(self.stdout.contains(piece), "should print `{piece}`: {self}");
        }
        self
    }

    /// Shows a place (`recipe.rhai:3:7`), its source line, and a caret under the column.
    #[track_caller]
    pub fn at(&self, place: &str, source: &str) -> &Self {
        let mut lines = self.stderr.lines().skip_while(|l| l.trim() != format!("--> {place}")).skip(1);
        assert!(self.stderr.contains(&format!("--> {place}\n")), "should point to {place}: {self}");
        let parts: Vec<&str> = place.rsplitn(3, ':').collect();
        let (number, column) = (parts[1], parts[0].parse::<usize>().unwrap());
        let shown = lines.find(|l| l.starts_with(&format!("{number} | "))).unwrap_or("");
        assert_eq!(shown, format!("{number} | {source}"), "should show the line of {place}: {self}");
        let before = number.chars().count() + " | ".len() + column - 1;
        let caret = lines.next().unwrap_or("");
        assert_eq!(caret.find('^'), Some(before), "should mark column {column}: {self}");
        self
    }

    /// An error of a script: exit code 1, place with line and caret, and what it says.
    #[track_caller]
    pub fn blames(&self, place: &str, source: &str, pieces: &[&str]) -> &Self {
        self.fails(1).at(place, source).says(pieces)
    }

    /// The lines of stdout as JSON values; arrays and numbers print as such.
    #[track_caller]
    pub fn values(&self) -> Vec<Value> {
        self.succeeds();
        let parse = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("`{l}`: {e}: {self}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The lines of stdout as flat lists of numbers.
    #[track_caller]
    pub fn numbers(&self) -> Vec<Vec<f64>> {
        let list = |v: &Value| match v {
            Value::Array(items) => items.iter().map(|x| x.as_f64().unwrap()).collect(),
            other => vec![other.as_f64().unwrap_or_else(|| panic!("{other} is no number: {self}"))],
        };
        self.values().iter().map(list).collect()
    }
}

/// Asserts that two lists of numbers agree to an absolute tolerance.
#[track_caller]
pub fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "found {found:?}, expected {expected:?}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "item {i} of {}: found {a}, expected {b}", found.len());
    }
}
