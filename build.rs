//! Compiles the C++ shim and the C one against the same libtorch that torch-sys found, and gives every binary an
//! rpath to it, so that nothing has to be set to run one.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=src/ffi");
    println!("cargo:rerun-if-changed=Cargo.lock");
    let lib =
        env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is; run `cargo xtask setup` first");
    let lib = PathBuf::from(lib);
    // Touched by every relink of the set-up, so that the rpath follows a switch of layout.
    println!("cargo:rerun-if-changed={}", lib.with_file_name("build-version").display());
    // The real folder, not the project's link to it: an installed binary outlives the clone.
    let lib = fs::canonicalize(&lib).unwrap_or(lib);
    let include = lib.parent().expect("libtorch/lib has a parent").join("include");
    // What a run records about this build.
    println!("cargo:rustc-env=NEPA_LIBTORCH_VERSION={}", libtorch_version(&include));
    println!("cargo:rustc-env=NEPA_RHAI_VERSION={}", locked_version("rhai"));

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        // Stand-ins for Gloo's headers.
        .include("src/ffi/gloo")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .file(one_unit())
        .compile("nepa_shim");

    // The same for each instruction set; the program chooses when it runs.
    let mut sets = vec![("plain", &[] as &[&str])];
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        sets.push(("avx2", &["-mavx2", "-mfma"]));
        sets.push((
            "avx512",
            &["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
        ));
    }
    for (name, flags) in sets {
        let mut kernels = kernels();
        for flag in flags {
            kernels.flag(flag);
        }
        kernels.define("NEPA_ISA", name).file("src/ffi/kernels/kernels.cpp").compile(&format!("nepa_kernels_{name}"));
    }
    kernels().file("src/ffi/kernels/best.cpp").compile("nepa_kernels");

    cc::Build::new().std("c11").pic(true).opt_level(2).file("src/ffi/jpeg.c").compile("nepa_jpeg");

    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

/// The version that libtorch's headers name: `#define TORCH_VERSION \`, and "2.11.0" in the next line.
fn libtorch_version(include: &Path) -> String {
    let header = fs::read_to_string(include.join("torch/headeronly/version.h")).expect("libtorch has its headers");
    let version = header.split("#define TORCH_VERSION \\").nth(1).and_then(|rest| rest.split('"').nth(1));
    version.expect("version.h defines TORCH_VERSION").to_string()
}

/// The version of a dependency in Cargo.lock.
fn locked_version(package: &str) -> String {
    let lock = fs::read_to_string("Cargo.lock").expect("Cargo.lock is beside build.rs");
    let entry = format!("name = \"{package}\"\nversion = \"");
    let (_, rest) = lock.split_once(&entry).unwrap_or_else(|| panic!("{package} is in Cargo.lock"));
    rest.split('"').next().unwrap_or_default().to_string()
}

/// Loops that the compiler is to make vectors of, whatever the profile.
fn kernels() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").pic(true).opt_level(3).debug(false);
    for flag in ["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"] {
        build.flag(flag);
    }
    build
}

/// One translation unit of all C++ files of the shim: reading libtorch's headers takes most of the time, and this way it
/// happens once.
fn one_unit() -> PathBuf {
    let sources = fs::canonicalize("src/ffi").expect("src/ffi is beside build.rs");
    let mut files = Vec::new();
    let mut folders = vec![sources];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src/ffi can be read") {
            let path = entry.expect("src/ffi can be read").path();
            match path.extension() {
                None if path.is_dir() && !path.ends_with("kernels") => folders.push(path),
                Some(extension) if extension == "cpp" => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    let unit = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("shim.cpp");
    let includes: String = files.iter().map(|f| format!("#include \"{}\"\n", f.display())).collect();
    fs::write(&unit, includes).expect("OUT_DIR can be written to");
    unit
}
