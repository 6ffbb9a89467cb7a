//! What the machine and the user's environment bring along, checked before anything large is fetched.

use crate::{cache, wheels::VERSION};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Takes out of a child's environment what `cargo run` put into ours. Above all LIBTORCH: build scripts that depend
/// on it would see it come and go between `cargo xtask test` and plain `cargo test`, and rebuild each time.
pub fn clean_env(command: &mut Command, project: &Path) {
    for (name, value) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text == "LIBTORCH" && is_project_link(Path::new(&value), project);
        if ours || text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
}

/// Whether a value of LIBTORCH is only the one from `.cargo/config.toml`, which `cargo run` hands to xtask as well.
fn is_project_link(path: &Path, project: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ".libtorch")
        && path.parent().and_then(|p| p.canonicalize().ok()) == project.canonicalize().ok()
}

/// A libtorch that the user chose, checked as far as that is quick. torch-sys asks PyTorch first and only then looks
/// at LIBTORCH, so that is the order here; with PyTorch, it ignores the LIBTORCH of `.cargo/config.toml` too.
pub fn own_libtorch(project: &Path) -> Result<Option<PathBuf>> {
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        return installed_pytorch().map(Some);
    }
    let Some(value) = env::var_os("LIBTORCH").filter(|v| !is_project_link(Path::new(v), project)) else {
        return Ok(None);
    };
    let path = PathBuf::from(&value);
    if !path.is_absolute() {
        let got = if value.is_empty() { "is set but empty".to_string() } else { format!("is {}", path.display()) };
        bail!("LIBTORCH {got}; it must be an absolute path. Unset it to have libtorch {VERSION} set up here");
    }
    let part = |name| env::var_os(name).map_or_else(|| path.clone(), PathBuf::from);
    for file in [part("LIBTORCH_LIB").join(library("torch_cpu")), part("LIBTORCH_INCLUDE").join("include/ATen/ATen.h")]
    {
        if !file.is_file() {
            bail!(
                "LIBTORCH is {}, but there is no {}. Point it at a libtorch {VERSION} folder, or unset it to have one \
                 set up here",
                path.display(),
                file.display()
            );
        }
    }
    if let Some(version) = version_in(&path) {
        check_version(&version, &format!("LIBTORCH is {}, which", path.display()))?;
    }
    Ok(Some(path))
}

/// `lib/libNAME.so`, or as macOS calls it.
pub fn library(name: &str) -> String {
    format!("lib/{}{name}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX)
}

/// What a libtorch folder says of its version, if anything: libtorch archives hold `build-version`, PyTorch
/// `version.py`.
fn version_in(path: &Path) -> Option<String> {
    fs::read_to_string(path.join("build-version")).ok().or_else(|| {
        let text = fs::read_to_string(path.join("version.py")).ok()?;
        let line = text.lines().find(|l| l.starts_with("__version__"))?;
        line.split(['\'', '"']).nth(1).map(str::to_string)
    })
}

fn check_version(version: &str, what: &str) -> Result<()> {
    let plain = version.trim().split('+').next().unwrap_or_default();
    if plain != VERSION && env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_none() {
        bail!(
            "{what} has version {plain}; {VERSION} is needed. Choose that, or unset the variable to have it set up here"
        );
    }
    Ok(())
}

fn installed_pytorch() -> Result<PathBuf> {
    // The same choice as in torch-sys. Found, not imported: importing takes seconds.
    let python = if env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" };
    let script =
        "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
    let output = Command::new(python)
        .args(["-c", script])
        .output()
        .with_context(|| format!("LIBTORCH_USE_PYTORCH is set, but {python} cannot be started"))?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !path.join(library("torch_cpu")).is_file() {
        bail!(
            "LIBTORCH_USE_PYTORCH is set, but {python} has no PyTorch. Install it (`{python} -m pip install \
             torch=={VERSION}`), or unset the variable to have libtorch set up here"
        );
    }
    let version = version_in(&path).unwrap_or_default();
    check_version(&version, &format!("LIBTORCH_USE_PYTORCH is set, but the PyTorch of {python}"))?;
    Ok(path)
}

/// The C++ compiler that the `cc` crate will call: $CXX (which may carry arguments), else `c++`.
pub fn compiler() -> Command {
    let cxx = env::var("CXX").unwrap_or_default();
    let mut words = cxx.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("c++"));
    command.args(words);
    command
}

pub fn check_compiler() -> Result<()> {
    let name = compiler().get_program().to_string_lossy().into_owned();
    let hint = "nepa needs one that knows C++17: `apt install g++` on Debian and Ubuntu, `xcode-select --install` on \
                macOS; or set CXX to yours";
    let mut child = compiler()
        .args(["-std=c++17", "-fsyntax-only", "-x", "c++", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| anyhow!("there is no C++ compiler `{name}` ({e}); {hint}"))?;
    // Fails only if the compiler is gone already, which its exit status tells better.
    let _ = child.stdin.take().expect("piped").write_all(b"#include <optional>\n");
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!(
            "the C++ compiler `{name}` cannot compile C++17 ({}); {hint}",
            text.lines().next().unwrap_or("no message")
        );
    }
    Ok(())
}

/// Python is wanted only for its pip, which knows the package index, proxies and certificates of this machine.
pub fn check_python() -> Result<()> {
    let own = "or set LIBTORCH to a libtorch folder that you have";
    let output = Command::new("python3")
        .args(["-c", "import importlib.util as u; print(u.find_spec('pip') is not None)"])
        .output()
        .map_err(|e| {
            anyhow!(
                "libtorch is fetched with Python's pip, but there is no `python3` ({e}). Install it (`apt install \
                 python3 python3-pip` on Debian and Ubuntu), {own}"
            )
        })?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "True" => Ok(()),
        "False" => bail!(
            "libtorch is fetched with Python's pip, but `python3` has none. Install it (`apt install python3-pip` on \
             Debian and Ubuntu, elsewhere `python3 -m ensurepip --user`), {own}"
        ),
        _ => {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("`python3` does not work: {}", text.lines().last().unwrap_or("no message"))
        }
    }
}

/// Refuses early what would not fit; where `df` does not tell, the disk itself will.
pub fn check_space(folder: &Path, needed: u64) -> Result<()> {
    let output = Command::new("df").arg("-Pk").arg(folder).output();
    let free = output.ok().and_then(|o| {
        let text = String::from_utf8_lossy(&o.stdout).into_owned();
        text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    match free {
        Some(free) if free * 1024 < needed => bail!(
            "setting up libtorch takes {:.1} GB of disk space for a while, but {} has {:.1} GB free. Free some, or set \
             NEPA_CACHE to a folder on another disk",
            needed as f64 / 1e9,
            folder.display(),
            free as f64 * 1024. / 1e9
        ),
        _ => Ok(()),
    }
}

/// The folder that all clones keep libtorch in.
pub fn cache_dir() -> Result<PathBuf> {
    cache::folder().context("HOME is not set; set NEPA_CACHE to a folder for libtorch")
}
