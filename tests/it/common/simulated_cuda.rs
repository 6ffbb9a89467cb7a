//! The simulated CUDA (`tests/simulated-cuda/`), compiled once for all tests, in a folder that the loader takes for
//! libtorch's.

use super::{Folder, Said, names_in, repository};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names the device of the runs that tests start: "cuda" lets them run on the simulated one.
const TEST_DEVICE: &str = "NEPA_TEST_DEVICE";

/// Whether the tests are to run on the simulated CUDA.
pub fn everywhere() -> bool {
    match std::env::var(TEST_DEVICE).as_deref() {
        Err(_) | Ok("" | "cpu") => false,
        Ok("cuda") => true,
        Ok(other) => panic!("{TEST_DEVICE}: expected cpu or cuda, found `{other}`"),
    }
}

/// The environment of a program that takes the simulation for libtorch's CUDA: new memory is NaN.
pub fn environment() -> Vec<(&'static str, String)> {
    vec![loaded_from(folder()), ("NEPA_SIMULATED_CUDA_POISON", "1".into())]
}

/// A variable of the environment.
pub type Setting<'a> = (&'a str, &'a str);

/// Runs nepa with the simulation, where more of its variables are set.
pub fn simulated(folder: &Folder, settings: &[Setting<'_>], args: &[&str]) -> Said {
    let simulation = environment();
    let mut env: Vec<Setting<'_>> = simulation.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.extend(settings);
    folder.nepa_with(&env, args)
}

/// A folder with a recipe, for runs that say themselves where they run.
pub fn folder_with(recipe: &str) -> Folder {
    let folder = Folder::on_cpu();
    folder.write("recipe.rhai", recipe);
    folder
}

/// A report of the simulation.
pub struct Report(pub Value);

impl Report {
    pub fn read(folder: &Folder, name: &str) -> Self {
        Report(folder.json(name))
    }

    /// One count, over all phases.
    pub fn count(&self, what: &str) -> i64 {
        self.0["phases"].as_object().unwrap().values().map(|counts| counts[what].as_i64().unwrap()).sum()
    }

    pub fn allocations(&self) -> i64 {
        self.0["allocations"].as_i64().unwrap()
    }

    pub fn peak(&self) -> i64 {
        self.0["devices"][0]["peak_bytes"].as_i64().unwrap()
    }
}

/// A classifier of a thousand classes, as `m`.
pub const CLASSIFIER: &str = "let m = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 3, hidden_size: 8, \
                          num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, num_labels: 1000 })";

/// The variable by which a program loads libtorch from a folder.
pub fn loaded_from(folder: &Path) -> (&'static str, String) {
    const PATH: &str = "LD_LIBRARY_PATH";
    let others = std::env::var_os(PATH).unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&others));
    (PATH, std::env::join_paths(folders).unwrap().into_string().unwrap())
}

/// A folder of links to libtorch's libraries, without the one of CUDA.
pub fn link_libtorch(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let libtorch = libtorch();
    let link = |from: PathBuf, to: PathBuf| match std::os::unix::fs::symlink(from, to) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => panic!("{e}"),
        _ => {}
    };
    for name in names_in(&libtorch).iter().filter(|name| *name != CUDA) {
        link(libtorch.join(name), to.join(name));
    }
    // The library of JPEG files lies beside the folder.
    let beside = libtorch.parent().unwrap();
    for name in names_in(beside).iter().filter(|name| name.starts_with("libjpeg")) {
        link(beside.join(name), to.parent().unwrap().join(name));
    }
}

/// What nepa opens for CUDA, beside the other libraries of libtorch.
pub const CUDA: &str = "libtorch_cuda.so";

/// The folder that libtorch really lies in.
fn libtorch() -> PathBuf {
    let loaded = nepa::ffi::torch_folder().expect("the system tells where libtorch is").join("libtorch_cpu.so");
    loaded.canonicalize().unwrap().parent().unwrap().to_path_buf()
}

/// The folder with the simulation, which is compiled when it is not there yet.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulated-cuda");
        std::fs::create_dir_all(&all).unwrap();
        // Other processes of tests wait here; the system lets go of the lock however one ends.
        let lock = std::fs::File::create(all.join("lock")).unwrap();
        lock.lock().unwrap();
        // One folder for each state of the sources and each libtorch: a process that uses another is not disturbed.
        let folder = all.join(format!("{:08x}", fingerprint())).join("lib");
        if !folder.join(CUDA).exists() {
            link_libtorch(&folder);
            compile(&folder);
        }
        folder
    })
}

/// Of everything that the library is made from.
fn fingerprint() -> u32 {
    let mut hash = crc32fast::Hasher::new();
    let sources = repository("tests/simulated-cuda");
    for name in names_in(&sources) {
        hash.update(name.as_bytes());
        hash.update(&std::fs::read(sources.join(name)).unwrap());
    }
    let libtorch = libtorch().join("libtorch_cpu.so");
    let meta = libtorch.metadata().unwrap();
    hash.update(format!("{} {} {:?}", libtorch.display(), meta.len(), meta.modified().unwrap()).as_bytes());
    hash.update(compiler().as_bytes());
    hash.finalize()
}

/// The C++ compiler, as build.rs chooses it: $CXX, which may carry arguments, else `c++`.
fn compiler() -> String {
    std::env::var("CXX").ok().filter(|cxx| !cxx.trim().is_empty()).unwrap_or_else(|| "c++".into())
}

fn compile(folder: &Path) {
    let include = libtorch().with_file_name("include");
    let compiler = compiler();
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    // Complete or absent: the name that nepa looks for comes last.
    let unfinished = folder.join("unfinished.so");
    command
        .args(words)
        .args(["-std=c++17", "-O1", "-fPIC", "-shared", "-D_GLIBCXX_USE_CXX11_ABI=1", "-DUSE_C10D_GLOO"])
        // Stand-ins for Gloo's headers.
        .arg("-I")
        .arg(repository("src/ffi/gloo"))
        .arg("-I")
        .arg(&include)
        .arg("-I")
        .arg(include.join("torch/csrc/api/include"))
        .arg(repository("tests/simulated-cuda/library.cpp"))
        .arg("-o")
        .arg(&unfinished)
        .arg("-L")
        .arg(folder)
        .args(["-ltorch_cpu", "-lc10", "-Wl,-soname,libtorch_cuda.so", "-Wl,--no-undefined"]);
    let output = command.output().unwrap_or_else(|e| panic!("there is no C++ compiler `{compiler}`: {e}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the simulated CUDA does not compile: {text}");
    std::fs::rename(unfinished, folder.join(CUDA)).unwrap();
}
