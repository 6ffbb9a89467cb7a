//! Formats that PyTorch writes, by the package `nepa` of python/, which the program brings along.

use super::{ExportArgs, Part};
use crate::bail_hint;
use crate::error::{Context as _, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The package's files.
const PACKAGE: &[(&str, &str)] = crate::script::embedded!["python/nepa":
    "__init__.py",
    "config.py",
    "embedding.py",
    "errors.py",
    "export.py",
    "json_file.py",
    "model.py",
    "preprocessor.py",
    "program.py",
    "run.py",
    "tensor_file.py",
    "weights.py",
];

/// Starts it. Python is not to find modules in the folder that it happens to be started in: that may be a stranger's.
const START: &str = "import os, sys
sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != os.getcwd()]
from nepa.export import main
sys.exit(main())";

/// Writes the package to a folder of its own, for as long as the result lives.
fn package() -> Result<TempDir> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let package = folder.path().join("nepa");
    std::fs::create_dir(&package)?;
    for (name, text) in PACKAGE {
        std::fs::write(package.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(folder)
}

/// Exports the model by Python, which says what it has written.
pub fn export(args: &ExportArgs, to: &str) -> Result<()> {
    let package = package()?;
    let python = args.python.clone().unwrap_or_else(|| PathBuf::from("python3"));
    let mut command = Command::new(&python);
    command.args(["-c", START]).arg(&args.model).arg(&args.dest).args(["--to", to]);
    let part = args.part.map(|part| if part == Part::Encoder { "encoder" } else { "classifier" });
    let weights = Some(args.weights.as_str()).filter(|weights| !weights.is_empty());
    for (option, value) in [("--part", part), ("--weights", weights), ("--dtype", args.dtype.as_deref())] {
        command.args(value.into_iter().flat_map(|value| [option, value]));
    }
    if args.preprocess {
        command.arg("--preprocess");
    }
    command.env("PYTHONPATH", python_path(package.path())).env("PYTHONDONTWRITEBYTECODE", "1");
    // Python's own libtorch, not the one beside this program.
    command.env_remove("LD_LIBRARY_PATH");
    let status = match command.status() {
        Ok(status) => status,
        Err(e) => bail_hint!(
            "cannot start {}: {e}", python.display();
            "name the Python of an environment that has PyTorch, with --python or NEPA_PYTHON"
        ),
    };
    if !status.success() {
        drop(package);
        // It has said why.
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}

/// The package first, then what the user has set.
fn python_path(package: &Path) -> OsString {
    let known = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let all = std::iter::once(package.to_path_buf()).chain(std::env::split_paths(&known));
    std::env::join_paths(all.filter(|path| !path.as_os_str().is_empty())).unwrap_or_else(|_| package.into())
}
