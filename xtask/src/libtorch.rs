//! libtorch in the cache and in the project.
//!
//! The cache holds one folder per layout, `libtorch-VERSION-VARIANT-PLATFORM`, and the project a link `.libtorch` to
//! one of them, which `.cargo/config.toml` names as LIBTORCH. A layout is built in a staging folder beside it and
//! renamed when complete, and it is trusted only if every file has the size that its manifest tells. All building
//! happens under a file lock; so a staging folder found under the lock was left by a process that is gone.

use crate::{
    cargo, fetch, host,
    wheels::{self, VERSION, Variant},
};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::SystemTime,
};

const MANIFEST: &str = "manifest.txt";
/// The manifest's first line. Change it when layouts are made differently, so that old ones are made again.
const HEADER: &str = "libtorch layout 2";

#[derive(Clone, Copy)]
pub enum Want {
    /// Whatever the project is linked to; for the CPU if it is not linked yet.
    Linked,
    Exactly(Variant),
}

struct Layout {
    dir: PathBuf,
    variant: Variant,
}

enum State {
    Intact,
    Missing,
    Damaged(String),
}

impl Layout {
    fn new(cache: &Path, variant: Variant, platform: &str) -> Self {
        Layout { dir: cache.join(format!("libtorch-{VERSION}-{}-{platform}", variant.name())), variant }
    }

    /// The layout of this version and platform that a project's link points at, there or not.
    fn linked(link: &Path, platform: &str) -> Option<Self> {
        let target = fs::read_link(link).ok()?;
        let dir = target.ancestors().find(|dir| {
            dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("libtorch-{VERSION}-")))
        })?;
        let mut layouts = [Variant::Cpu, Variant::Cuda].map(|v| Layout::new(dir.parent()?, v, platform).into());
        layouts.iter_mut().find_map(|l: &mut Option<Layout>| l.take_if(|l| l.root() == target))
    }

    /// The folder to use as LIBTORCH. The CUDA libraries find each other by RPATHs like `$ORIGIN/../../nvidia/cudnn/lib`,
    /// that is, as in Python's site-packages.
    fn root(&self) -> PathBuf {
        root_in(&self.dir, self.variant)
    }

    /// Compares every file with the manifest. By size only: it takes milliseconds, and finds deleted and cut files.
    fn state(&self) -> State {
        let manifest = match fs::read_to_string(self.dir.join(MANIFEST)) {
            Ok(text) => text,
            Err(_) if self.dir.exists() => return State::Damaged("it has no manifest".into()),
            Err(_) => return State::Missing,
        };
        let mut lines = manifest.lines();
        if lines.next() != Some(HEADER) {
            return State::Damaged("another version of this set-up made it".into());
        }
        for line in lines {
            let Some((size, name)) = line.split_once(' ').and_then(|(s, n)| Some((s.parse::<u64>().ok()?, n))) else {
                return State::Damaged("its manifest is broken".into());
            };
            match fs::metadata(self.dir.join(name)) {
                Ok(meta) if meta.len() == size => {}
                Ok(meta) => {
                    return State::Damaged(format!("{name} has {} bytes instead of {size}", meta.len()));
                }
                Err(error) => return State::Damaged(format!("{name}: {error}")),
            }
        }
        State::Intact
    }
}

fn root_in(dir: &Path, variant: Variant) -> PathBuf {
    match variant {
        Variant::Cpu => dir.to_path_buf(),
        Variant::Cuda => dir.join("site/torch"),
    }
}

/// Makes sure that there is a libtorch that cargo will find, and says which. Quiet unless there is something to do.
pub fn ensure(project: &Path, want: Want) -> Result<String> {
    if let Some(own) = host::own_libtorch(project)? {
        host::check_compiler()?;
        return Ok(format!("Using your own libtorch in {}; nothing to set up.", own.display()));
    }
    let platform = wheels::platform()?;
    let link = project.join(".libtorch");
    let linked = Layout::linked(&link, &platform);
    let layout = match (want, linked) {
        (Want::Linked, Some(linked)) => {
            if matches!(linked.state(), State::Intact) {
                return Ok(String::new());
            }
            // Its cache may be gone for good; its variant is what counts.
            Layout::new(&host::cache_dir()?, linked.variant, &platform)
        }
        (Want::Linked, None) => Layout::new(&host::cache_dir()?, Variant::Cpu, &platform),
        (Want::Exactly(variant), _) => Layout::new(&host::cache_dir()?, variant, &platform),
    };
    if !matches!(layout.state(), State::Intact) {
        set_up(&layout, &platform)?;
    }
    relink(project, &link, &layout)?;
    Ok(format!("libtorch {VERSION} ({}) is ready in {}", layout.variant.label(), layout.dir.display()))
}

fn set_up(layout: &Layout, platform: &str) -> Result<()> {
    let wheels = wheels::list(layout.variant, platform)?;
    host::check_compiler()?;
    host::check_python()?;
    let cache = layout.dir.parent().expect("a layout is in the cache");
    let _lock = lock(cache)?;
    match layout.state() {
        // Another set-up made it while this one waited.
        State::Intact => return Ok(()),
        State::Missing => {}
        State::Damaged(how) => {
            eprintln!("libtorch in {} is damaged ({how}); setting it up again.", layout.dir.display())
        }
    }
    remove_stale(cache);
    // pip holds a wheel twice while it stores it; then it is unpacked and removed before the next.
    let largest = wheels.iter().map(|w| w.bytes).max().unwrap_or(0);
    host::check_space(cache, 2 * largest + wheels.iter().map(|w| w.unpacked).sum::<u64>() * 105 / 100)?;
    let started = SystemTime::now();
    eprintln!(
        "Setting up libtorch {VERSION} ({}) in {}, once for all clones: {:.0} MB to download.",
        layout.variant.label(),
        cache.display(),
        wheels.iter().map(|w| w.bytes).sum::<u64>() as f64 / 1e6
    );
    build(layout, &wheels, &Staging::new(cache)?).map_err(full_disk)?;
    eprintln!("libtorch is set up, in {} s.", started.elapsed().map_or(0, |t| t.as_secs()));
    Ok(())
}

fn build(layout: &Layout, wheels: &[wheels::Wheel], staging: &Staging) -> Result<()> {
    let new = staging.0.join("layout");
    let root = root_in(&new, layout.variant);
    let site = if layout.variant == Variant::Cuda { new.join("site") } else { new.clone() };
    fs::create_dir_all(&site)?;
    fetch::fetch(wheels, &staging.0, &site)?;
    if cfg!(target_os = "linux") && layout.variant == Variant::Cpu {
        stub(&root)?;
    }
    fs::write(root.join("build-version"), VERSION)?;

    let mut files = BTreeMap::new();
    list_files(&new, Path::new(""), &mut files)?;
    let mut manifest = File::create(new.join(MANIFEST))?;
    let lines: Vec<_> = files.iter().map(|(name, size)| format!("{size} {name}")).collect();
    writeln!(manifest, "{HEADER}\n{}", lines.join("\n"))?;
    manifest.sync_all()?;

    if layout.dir.exists() {
        // Aside, not deleted in place: whoever has its libraries open keeps them.
        fs::rename(&layout.dir, staging.0.join("old"))?;
    }
    fs::rename(&new, &layout.dir)?;
    // Makes the rename last; failing that, the next command finds out by the manifest.
    let _ = File::open(layout.dir.parent().expect("a layout is in the cache")).and_then(|d| d.sync_all());
    Ok(())
}

/// torch-sys links `libtorch.so`, which holds nothing itself but pulls in CUDA; the CPU's is an empty one.
fn stub(root: &Path) -> Result<()> {
    let lib = root.join("lib");
    let output = host::compiler()
        .args(["-shared", "-o"])
        .arg(lib.join("libtorch.so"))
        .args(["-x", "c++", "/dev/null"])
        .arg(format!("-L{}", lib.display()))
        .arg(format!("-Wl,-rpath-link,{}", lib.display()))
        .args(["-Wl,-soname,libtorch.so", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", "-ltorch_cpu", "-lc10"])
        .output()?;
    if !output.status.success() {
        bail!("the C++ compiler could not link libtorch.so: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn list_files(base: &Path, inside: &Path, files: &mut BTreeMap<String, u64>) -> Result<()> {
    for entry in fs::read_dir(base.join(inside))? {
        let entry = entry?;
        let name = inside.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list_files(base, &name, files)?;
        } else {
            files.insert(name.to_string_lossy().into_owned(), entry.metadata()?.len());
        }
    }
    Ok(())
}

/// A folder to work in, on the same file system as the cache, gone when done with.
struct Staging(PathBuf);

const STAGING: &str = "staging-";

impl Staging {
    fn new(cache: &Path) -> Result<Self> {
        let staging = Staging(cache.join(format!("{STAGING}{}", std::process::id())));
        fs::create_dir_all(&staging.0).map_err(|e| no_cache(cache, e))?;
        Ok(staging)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Only under the lock: see above.
fn remove_stale(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Held as long as the file is open; the system lets go of it however the process ends.
fn lock(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).map_err(|e| no_cache(cache, e))?;
    let file = File::create(cache.join("lock")).map_err(|e| no_cache(cache, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("Waiting for another set-up running in {} …", cache.display());
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(anyhow!(error)).with_context(|| {
                format!("cannot lock {}; set NEPA_CACHE to a folder on a local disk", cache.display())
            });
        }
    }
    Ok(file)
}

fn no_cache(cache: &Path, error: io::Error) -> anyhow::Error {
    anyhow!(
        "cannot write to the cache folder {} ({error}). Set NEPA_CACHE to a folder that you can write to",
        cache.display()
    )
}

fn full_disk(error: anyhow::Error) -> anyhow::Error {
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    match error.downcast_ref::<io::Error>() {
        Some(e) if kinds.contains(&e.kind()) => fetch::no_space(),
        _ => error,
    }
}

/// Points the project's link at a layout, in one step.
fn relink(project: &Path, link: &Path, layout: &Layout) -> Result<()> {
    let root = layout.root();
    let before = fs::read_link(link).ok();
    if before.as_ref() == Some(&root) {
        return Ok(());
    }
    let new = project.join(format!(".libtorch.{}", std::process::id()));
    let _ = fs::remove_file(&new);
    if let Err(error) = symlink(&root, &new).and_then(|()| fs::rename(&new, link)) {
        let _ = fs::remove_file(&new);
        bail!(
            "cannot make the link {} ({error}). If something else is there, move it away; the project's folder must \
             be writable",
            link.display()
        );
    }
    // Build scripts watch this file through the link; its time must change although it may be older than their output.
    let version = File::options().append(true).open(root.join("build-version"));
    let _ = version.and_then(|f| f.set_modified(SystemTime::now()));
    if before.is_some_and(|b| b.ends_with("site/torch")) && layout.variant == Variant::Cpu {
        // Built against CUDA, torch-sys has -ltorch_cuda in its link line, and nothing tells it that this is gone.
        for profile in ["dev", "release"] {
            let mut cargo = cargo::command(project);
            cargo.args(["clean", "--quiet", "--package", "torch-sys", "--profile", profile]);
            let _ = cargo.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
    Ok(())
}
