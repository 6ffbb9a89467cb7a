//! `cargo xtask wheel`: a Python wheel of the program, which takes libtorch from the PyTorch beside it.
//!
//! Written here and not by maturin: its wheels put a program into the environment's `bin` folder, from where PyTorch's
//! libraries lie in a folder that depends on Python's version, and it has no place for a check of PyTorch's version.

use crate::{
    cargo::{self, project},
    commands::{Usage, unknown},
    libtorch::{self, Want},
    wheels::VERSION,
};
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use object::{
    Endianness,
    elf::{self, FileHeader64},
    read::elf::{Dyn, FileHeader, SectionHeader},
};
use sha2::{Digest, Sha256};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

pub const HELP: &str = "\
Usage: cargo xtask wheel [--to DIR] [--binary FILE]

Builds nepa in release mode and packs it, without its symbols, as a Python wheel: `pip install nepa-*.whl` puts nepa on
PATH, where it finds the libtorch of that environment. A second wheel, nepa_examples, holds the example images that some
recipes use.

  --to DIR       where the wheels are written; target/wheel unless given
  --binary FILE  pack this build of nepa instead
";

/// Where an installed program finds libtorch: from site-packages/nepa/bin.
const RUNPATH: &str = "$ORIGIN/../../torch/lib";

pub fn wheel(args: &[OsString]) -> Result<ExitCode> {
    let (mut to, mut binary) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.to_string_lossy();
        let place = match &*name {
            "--to" => &mut to,
            "--binary" => &mut binary,
            _ => bail!(unknown("argument", &name, &["--to", "--binary", "--help"], "cargo xtask wheel --help")),
        };
        let Some(value) = args.next().filter(|value| !value.is_empty()) else {
            bail!(Usage(format!("{name} needs a path")));
        };
        *place = Some(std::path::absolute(value)?);
    }
    ensure!(cfg!(target_os = "linux"), "wheels are made on Linux, for Linux; elsewhere use `cargo xtask install`");
    let project = project();
    let binary = match binary {
        Some(binary) => binary,
        None => {
            libtorch::ensure(&project, Want::Linked)?;
            match cargo::build_nepa(&project)? {
                Ok(binary) => binary,
                Err(code) => return Ok(code),
            }
        }
    };
    let to = to.unwrap_or_else(|| project.join("target/wheel"));
    fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
    let version = version(&project)?;
    for wheel in [program(&project, &binary, &version)?, examples(&project, &version)?] {
        let path = wheel.write(&to)?;
        println!("wrote {} ({:.1} MB)", path.display(), fs::metadata(&path)?.len() as f64 / 1e6);
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The wheel of a build.
fn program(project: &Path, binary: &Path, version: &str) -> Result<Wheel> {
    let mut bytes = without_symbols(binary)?;
    let platform = link_to_neighbour(&mut bytes).with_context(|| binary.display().to_string())?;
    let build = format!("__version__ = \"{version}\"\nTORCH = \"{VERSION}\"\n");
    let mut files = vec![("nepa/bin/nepa".into(), bytes), ("nepa/_build.py".into(), build.into())];
    let python = project.join("python");
    // Not what Python has compiled of them.
    let is_source = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "py" || ending == "typed");
    for path in files_below(&python)?.into_iter().filter(is_source) {
        let name = path.strip_prefix(&python).expect("it lies there").display().to_string();
        files.push((name, read(&path)?));
    }
    let share = format!("nepa-{version}.data/data/share");
    files.extend(for_shells(binary)?.into_iter().map(|(name, bytes)| (format!("{share}/{name}"), bytes)));
    let readme = String::from_utf8(read(&project.join("README.md"))?).context("README.md is text")?;
    let about = format!(
        "Summary: Scriptable NEPA pretraining, fine-tuning and evaluation of Vision Transformers on libtorch\n\
         License-Expression: MIT OR Apache-2.0\nRequires-Python: >=3.10\nRequires-Dist: torch=={VERSION}\n\
         Description-Content-Type: text/markdown\n\n{readme}"
    );
    let entry = "[console_scripts]\nnepa = nepa.__main__:main\n".into();
    Ok(Wheel { name: "nepa", version: version.into(), platform, about, entry: Some(entry), files })
}

/// The wheel of the example images, which lie beside the program once both are installed.
fn examples(project: &Path, version: &str) -> Result<Wheel> {
    let mut files = Vec::new();
    for path in files_below(&project.join("examples/data"))? {
        let name = path.strip_prefix(project).expect("it lies there").display().to_string();
        files.push((format!("nepa/{name}"), read(&path)?));
    }
    let about = "Summary: Example images of nepa: a part of Fashion-MNIST\nLicense-Expression: MIT\n".into();
    Ok(Wheel { name: "nepa_examples", version: version.into(), platform: "any".into(), about, entry: None, files })
}

/// What a wheel is made of.
struct Wheel {
    name: &'static str,
    version: String,
    platform: String,
    /// Further lines of METADATA, and its text.
    about: String,
    /// entry_points.txt
    entry: Option<String>,
    /// Names in the wheel, and contents.
    files: Vec<(String, Vec<u8>)>,
}

impl Wheel {
    /// Writes it into a folder.
    fn write(mut self, to: &Path) -> Result<PathBuf> {
        let Wheel { name, version, .. } = &self;
        let (about, tag) = (format!("{name}-{version}.dist-info"), format!("py3-none-{}", self.platform));
        let is_pure = self.platform == "any";
        let metadata = format!("Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{}", self.about);
        let wheel = format!("Wheel-Version: 1.0\nGenerator: xtask\nRoot-Is-Purelib: {is_pure}\nTag: {tag}\n");
        let path = to.join(format!("{name}-{version}-{tag}.whl"));
        self.files.push((format!("{about}/METADATA"), metadata.into()));
        self.files.push((format!("{about}/WHEEL"), wheel.into()));
        self.files.extend(self.entry.take().map(|entry| (format!("{about}/entry_points.txt"), entry.into())));
        let mut record = String::new();
        for (name, bytes) in &self.files {
            let digest = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(bytes));
            record += &format!("{name},sha256={digest},{}\n", bytes.len());
        }
        let name = format!("{about}/RECORD");
        record += &format!("{name},,\n");
        self.files.push((name, record.into()));
        write(&path, &self.files).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// A program as the machine's `strip` leaves it: symbols are a fifth of a release build, and more of another.
fn without_symbols(binary: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let stripped = folder.path().join("nepa");
    ensure!(binary.is_file(), "{} is not a file", binary.display());
    let output = Command::new("strip").arg("-o").args([&stripped, &binary.to_path_buf()]).output();
    let output = output.context("cannot start strip, which comes with a compiler (binutils)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "not a program for 64-bit Linux: {}", said.trim());
    read(&stripped)
}

/// Man pages and completions, which shells find in the `share` folder beside an environment's `bin`.
fn for_shells(binary: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let nepa = |args: &[&OsStr]| -> Result<Vec<u8>> {
        let output = Command::new(binary).args(args).output();
        let output = output.with_context(|| format!("cannot start {}", binary.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {args:?}: {}\n{said}", binary.display(), output.status);
        Ok(output.stdout)
    };
    let pages = tempfile::tempdir()?;
    nepa(&["man".as_ref(), pages.path().as_ref()])?;
    let mut files = Vec::new();
    for path in files_below(pages.path())? {
        let name = path.file_name().expect("a file").to_string_lossy();
        files.push((format!("man/man1/{name}"), fs::read(&path)?));
    }
    for (shell, place) in [
        ("bash", "bash-completion/completions/nepa"),
        ("zsh", "zsh/site-functions/_nepa"),
        ("fish", "fish/vendor_completions.d/nepa.fish"),
    ] {
        files.push((place.into(), nepa(&["completions".as_ref(), shell.as_ref()])?));
    }
    Ok(files)
}

/// Beside the destination first: nobody sees half a wheel.
fn write(path: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    let staging = path.with_extension("part");
    let mut archive = ZipWriter::new(File::create(&staging)?);
    for (name, bytes) in files {
        let mode = if name == "nepa/bin/nepa" { 0o755 } else { 0o644 };
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        // One date for all: equal files make equal wheels.
        let options = options.compression_level(Some(9)).unix_permissions(mode).last_modified_time(Default::default());
        archive.start_file(name, options)?;
        archive.write_all(bytes)?;
    }
    archive.finish()?.sync_all()?;
    Ok(fs::rename(staging, path)?)
}

/// Lets a program look for libtorch beside its package, instead of where it was built. Returns the platform's tag, which
/// names the oldest glibc that the program can be started with.
fn link_to_neighbour(program: &mut [u8]) -> Result<String> {
    let header = FileHeader64::<Endianness>::parse(&*program).context("not a program for 64-bit Linux")?;
    let endian = header.endian()?;
    let sections = header.sections(endian, &*program)?;
    let arch = match header.e_machine(endian) {
        elf::EM_X86_64 => "x86_64",
        elf::EM_AARCH64 => "aarch64",
        machine => bail!("it is for machine {machine}, expected x86-64 or aarch64"),
    };

    let mut oldest = (2, 17);
    let (mut libraries, strings) =
        sections.gnu_verneed(endian, &*program)?.context("it needs no versions of libraries")?;
    let names = sections.strings(endian, &*program, strings)?;
    while let Some((_, mut versions)) = libraries.next()? {
        while let Some(version) = versions.next()? {
            let name = String::from_utf8_lossy(version.name(endian, names)?).into_owned();
            let number = name.strip_prefix("GLIBC_").and_then(|number| number.split_once('.'));
            if let Some((major, minor)) =
                number.and_then(|(a, b)| Some((a.parse().ok()?, b.split('.').next()?.parse().ok()?)))
            {
                oldest = oldest.max((major, minor));
            }
        }
    }

    let (entries, strings) = sections.dynamic(endian, &*program)?.context("it is linked with nothing")?;
    let entry = entries.iter().find(|entry| [elf::DT_RUNPATH, elf::DT_RPATH].contains(&entry.d_tag(endian)));
    let at = entry.context("it has no path to look for libtorch in")?.d_val(endian) as usize
        + sections.section(strings)?.sh_offset(endian) as usize;
    let old = program[at..].split(|byte| *byte == 0).next().expect("one part at least").len();
    ensure!(
        RUNPATH.len() <= old,
        "its path to libtorch has {old} bytes, and {} are needed: move the cache",
        RUNPATH.len()
    );
    program[at..at + old].fill(0);
    program[at..at + RUNPATH.len()].copy_from_slice(RUNPATH.as_bytes());
    Ok(format!("manylinux_{}_{}_{arch}", oldest.0, oldest.1))
}

/// The version in Cargo.toml.
fn version(project: &Path) -> Result<String> {
    let text = fs::read_to_string(project.join("Cargo.toml"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("version = \"")).context("Cargo.toml has a version")?;
    Ok(line.trim_end_matches('"').into())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = glob::glob(&format!("{}/**/*", folder.display()))?.collect::<Result<_, _>>()?;
    found.retain(|path| path.is_file());
    found.sort();
    Ok(found)
}
