//! A checkout, a cache and a machine to run the real xtask in: `python3`, `c++` and `cargo` first on PATH are small
//! scripts, and what pip does is chosen by each test.

// Each test file uses its part.
#![allow(dead_code)]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub struct World {
    pub dir: TempDir,
}

/// What the scripts do that stand for pip: the file names of the wheels in $STORE, asked for by their requirement.
pub const PIP_WORKS: &str = "cp \"$STORE/$name\"-*.whl \"$dest\"";
pub const PIP_HANGS: &str =
    "mkdir -p \"$TMPDIR/pip-1\"; echo part > \"$TMPDIR/pip-1/x.whl\"; : > \"$STORE/hangs\"; exec sleep 5";

impl World {
    pub fn new() -> Self {
        let world = World { dir: tempfile::tempdir().unwrap() };
        for folder in ["home", "bin", "store", "project/xtask", "project/.cargo", "project/recipes"] {
            fs::create_dir_all(world.path(folder)).unwrap();
        }
        fs::write(world.path("project/xtask/Cargo.toml"), "").unwrap();
        fs::write(world.path("project/.cargo/config.toml"), "").unwrap();
        world.make_wheels();
        world.pip(PIP_WORKS);
        world.script("c++", "while [ $# -gt 0 ]; do [ \"$1\" = -o ] && echo stub > \"$2\"; shift; done");
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts an executable shell script first on PATH.
    pub fn script(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        // By a rename, because a script that is being run cannot be written to.
        let new = self.path("bin").join(format!("{name}.new"));
        fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// A python3 that is real but for `-m pip download`, which runs `text` with $name and $dest set.
    pub fn pip(&self, text: &str) {
        let python = python().display();
        self.script(
            "python3",
            &format!(
                "[ \"$1 $2 $3\" = '-m pip download' ] || exec {python} \"$@\"\n\
                 while [ $# -gt 0 ]; do case \"$1\" in --dest) dest=$2;; --requirement) list=$2;; esac; shift; done\n\
                 read -r line < \"$list\"; name=${{line%%==*}}; echo \"$name\" >> \"$STORE/calls\"\n{text}"
            ),
        );
    }

    pub fn no_script(&self, name: &str) {
        fs::remove_file(self.path("bin").join(name)).unwrap();
    }

    /// How often pip was asked for a wheel.
    pub fn pip_calls(&self) -> usize {
        fs::read_to_string(self.path("store/calls")).unwrap_or_default().lines().count()
    }

    /// Two small wheels that even the real pip accepts, and the list that pins them.
    fn make_wheels(&self) {
        let script = r##"
import hashlib, os, sys, zipfile
store, platform = sys.argv[1:]
def wheel(name, files):
    path = f"{store}/{name}-2.11.0-py3-none-manylinux2014_x86_64.whl"
    info = f"{name}-2.11.0.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        for f in files: z.writestr(f, "content of " + f)
        z.writestr(info + "/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.11.0\n")
        z.writestr(info + "/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-manylinux2014_x86_64\n")
        z.writestr(info + "/RECORD", "")
    return f"{os.path.getsize(path)} 99 {hashlib.sha256(open(path, 'rb').read()).hexdigest()} {os.path.basename(path)}"
torch = wheel("torch", ["torch/__init__.py", "torch/include/ATen/ATen.h", "torch/lib/libtorch_cpu.so", "torch/lib/libtorch_cuda.so"])
extra = wheel("extra", ["nvidia/cu13/lib/libextra.so", "nvidia/__init__.py"])
print(f"""# for tests
cpu {platform} {torch} 1 torch/include/* torch/lib/libtorch_cpu.so
cpu {platform} {extra} 2 nvidia/cu13/lib/libextra.so
cuda {platform} {torch} 0 torch/include/* torch/lib/*
cuda {platform} {extra} 0 nvidia/* !*.py""")
"##;
        let platform = format!("{}-{}", env::consts::OS, env::consts::ARCH);
        let output =
            Command::new(python()).args(["-c", script]).arg(self.path("store")).arg(platform).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(self.path("wheels.txt"), output.stdout).unwrap();
    }

    /// The real xtask in the project, with nothing of this process's environment but the system's programs.
    pub fn xtask(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(args)
            .current_dir(self.path("project"))
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()))
            .env("HOME", self.path("home"))
            .env("NEPA_CACHE", self.path("cache"))
            .env("NEPA_XTASK_WHEELS", self.path("wheels.txt"))
            .env("STORE", self.path("store"))
            .env("CARGO", self.path("bin/cargo"))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.xtask(args).output().unwrap())
    }

    /// `setup`, which must work.
    pub fn set_up(&self) -> Ran {
        let ran = self.run(&["setup"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran
    }

    /// The one layout of a variant in the cache.
    pub fn layout(&self, variant: &str) -> PathBuf {
        let name = format!("libtorch-2.11.0-{variant}-{}-{}", env::consts::OS, env::consts::ARCH);
        self.path("cache").join(name)
    }

    pub fn link(&self) -> PathBuf {
        fs::read_link(self.path("project/.libtorch")).unwrap()
    }

    /// Names in the cache, but for the lock.
    pub fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("cache")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).filter(|n| n != "lock").collect();
        names.sort();
        names
    }

    /// Starts a set-up and waits until its pip hangs in the middle of a download.
    pub fn hanging(&self) -> Child {
        self.pip(PIP_HANGS);
        let child = self.xtask(&["setup"]).stderr(Stdio::null()).spawn().unwrap();
        wait_for(&self.path("store/hangs"));
        child
    }
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

pub fn wait_for(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The interpreter itself: what is called python3 may be a slow wrapper that chooses one.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        String::from_utf8(output.expect("these tests need python3").stdout).unwrap().trim().into()
    })
}
