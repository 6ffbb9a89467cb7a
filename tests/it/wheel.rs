//! The Python wheel: installed in an environment of its own, it runs with the PyTorch that it finds there.

use crate::common::simulated_cuda::link_libtorch;
use crate::common::*;
use std::path::PathBuf;
use std::process::Command;

/// Compares a wheel's files with its RECORD.
const VERIFY: &str = r#"
import base64, csv, hashlib, io, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
assert wheel.testzip() is None
record = [name for name in wheel.namelist() if name.endswith("RECORD")][0]
rows = {name: digest for name, digest, _ in csv.reader(io.StringIO(wheel.read(record).decode()))}
assert sorted(rows) == sorted(wheel.namelist()), set(rows) ^ set(wheel.namelist())
for name, digest in rows.items():
    if name != record:
        found = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(name)).digest()).decode().rstrip("=")
        assert digest == "sha256=" + found, name
print(wheel.read(record.replace("RECORD", "METADATA")).decode().split("\n\n")[0])
"#;

/// A Python environment with a wheel of this build, and a PyTorch that is nothing but its libraries.
struct Environment {
    folder: Folder,
    site: PathBuf,
}

impl Environment {
    fn new() -> Self {
        let folder = Folder::on_cpu();
        let nepa = env!("CARGO_BIN_EXE_nepa");
        let manifest = repository("xtask/Cargo.toml").display().to_string();
        let xtask = format!("{} run --quiet --manifest-path {manifest} --", env!("CARGO"));
        let said = folder.shell(&format!("{xtask} wheel --binary {nepa} --to wheels")).finish();
        said.succeeds().prints(&[
            "/wheels/nepa-",
            "-py3-none-manylinux_2_",
            "/wheels/nepa_examples-",
            "-py3-none-any.whl",
        ]);
        folder.write("verify.py", VERIFY);
        let version = concat!("Version: ", env!("CARGO_PKG_VERSION"));
        let about = |wheel: &str| folder.shell(&format!("python3 verify.py wheels/{wheel}-*.whl")).finish();
        about("nepa").succeeds().prints(&["Name: nepa\n", version, "Requires-Dist: torch==2.11.0"]);
        about("nepa_examples").succeeds().prints(&["Name: nepa_examples\n", version]);
        let install = "python3 -m venv --without-pip venv \
                       && python3 -m pip --python venv/bin/python install --quiet --no-deps --no-index wheels/nepa-*.whl";
        folder.shell(install).finish().succeeds();
        let site = glob::glob(&folder.path("venv/lib/python3*/site-packages").display().to_string());
        let site = site.unwrap().next().unwrap().unwrap();
        let environment = Environment { folder, site };
        environment.put_torch("2.11.0+cpu", &environment.site);
        environment
    }

    fn put_torch(&self, version: &str, site: &std::path::Path) {
        link_libtorch(&site.join("torch/lib"));
        std::fs::write(site.join("torch/__init__.py"), "raise SystemExit('PyTorch is imported')").unwrap();
        std::fs::write(site.join("torch/version.py"), format!("__version__ = '{version}'\ncuda = None\n")).unwrap();
    }

    /// Runs a line in the environment, without the paths to libraries that cargo sets.
    fn sh(&self, line: &str) -> Said {
        self.folder.shell(&format!("unset LD_LIBRARY_PATH; PATH=$PWD/venv/bin:$PATH; {line}")).finish()
    }
}

#[test]
fn a_wheel_runs_with_the_pytorch_of_its_environment_or_says_what_it_needs() {
    if !Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|o| o.status.success()) {
        return println!("skipped: there is no python3 with pip");
    }
    let environment = Environment::new();
    let torch = environment.site.join("torch").canonicalize().unwrap();
    let said = environment.sh("nepa doctor");
    said.succeeds().prints(&[&format!("libtorch    {}/lib", torch.display()), "everything that a run needs works"]);
    environment.sh("nepa recipes copy fashion_mnist && nepa check fashion_mnist.rhai").succeeds();
    // The clients of `nepa sync` are those of this environment.
    environment.sh("nepa sync --help").succeeds().prints(&["NEPA_PYTHON=", "/venv/bin/python"]);
    environment.folder.write("data.rhai", "print(data::open(data::example(\"fashion-mnist\"), \"train\"));");
    let data = format!("{}/nepa/examples/data/fashion-mnist", environment.site.canonicalize().unwrap().display());
    // The development build knows its clone.
    environment.sh("nepa run data.rhai --device cpu --out none").succeeds().prints(&["12000 images"]);
    let install =
        "python3 -m pip --python venv/bin/python install --quiet --no-deps --no-index wheels/nepa_examples-*.whl";
    environment.folder.shell(install).finish().succeeds();
    environment.sh("nepa run data.rhai --device cpu --out out").succeeds().prints(&[&data, "12000 images"]);
    for file in ["man/man1/nepa-run.1", "bash-completion/completions/nepa"] {
        assert!(environment.folder.path(&format!("venv/share/{file}")).is_file(), "{file}");
    }
    // As a program of its own, and its exit codes are nepa's.
    let version = concat!("nepa ", env!("CARGO_PKG_VERSION"));
    environment.sh("python -m nepa --version").succeeds().prints(&[version]);
    environment.sh("nepa check nothing.rhai").fails(1).says(&["nothing.rhai"]);
    // What needs no PyTorch does not import it: the one that is here would end Python.
    let read = "python -c 'import nepa; print(nepa.__version__, nepa.Run(\"out\"), nepa.Run(\"out\").columns())'";
    let said = environment.sh(read);
    said.succeeds().prints(&[env!("CARGO_PKG_VERSION"), "nepa.Run('out', finished) {}"]);
    for name in ["model.py", "export.py", "py.typed"] {
        assert!(environment.site.join("nepa").join(name).is_file(), "{name}");
    }

    // PyTorch of another environment, as with --system-site-packages.
    let elsewhere = environment.folder.path("elsewhere");
    environment.put_torch("2.11.0+cu130", &elsewhere);
    std::fs::remove_dir_all(environment.site.join("torch")).unwrap();
    let said = environment.sh("PYTHONPATH=elsewhere nepa doctor");
    said.succeeds().prints(&[&format!("libtorch    {}/torch/lib", elsewhere.canonicalize().unwrap().display())]);

    let said = environment.sh("nepa --version");
    said.fails(1).says(&["error: nepa needs PyTorch 2.11.0, which this Python environment does not have"]);
    said.says(&["hint: ", "venv/bin/python -m pip install torch==2.11.0"]);
    environment.put_torch("2.10.0+cu128", &environment.site);
    let said = environment.sh("nepa --version");
    said.fails(1).says(&["error: nepa was built for PyTorch 2.11.0, found 2.10.0+cu128 in ", "install torch==2.11.0"]);
    std::fs::remove_file(environment.site.join("torch/version.py")).unwrap();
    environment.sh("nepa --version").fails(1).says(&["is damaged: ", "--force-reinstall"]);
}

#[test]
fn a_wheel_cannot_be_made_of_something_else() {
    let folder = Folder::new();
    let manifest = repository("xtask/Cargo.toml").display().to_string();
    let wheel = |args: &str| {
        folder.shell(&format!("{} run --quiet --manifest-path {manifest} -- wheel {args}", env!("CARGO"))).finish()
    };
    folder.write("text", "not a program");
    wheel("--binary text").fails(1).says(&["not a program for 64-bit Linux"]);
    wheel("--binary nowhere").fails(1).says(&["nowhere is not a file"]);
    // A program, but not this one.
    wheel("--binary $(command -v bash)").fails(1).says(&["it has no path to look for libtorch in"]);
    wheel("--binery x").fails(2).says(&["unknown argument `--binery` (did you mean `--binary`?)"]);
    wheel("--to").fails(2).says(&["--to needs a path"]);
    assert!(!folder.path("target").exists());
}
