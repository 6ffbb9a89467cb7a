//! Compiles the C++ shim and the C one against the same libtorch that torch-sys found, and gives every binary an
//! rpath to it, so that nothing has to be set to run one.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=src/ffi");
    println!("cargo:rerun-if-changed=stdlib");
    let lib =
        env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch lies; run `cargo xtask setup` first");
    let lib = PathBuf::from(lib);
    // Touched by every relink of the set-up, so that the rpath follows a switch of layout.
    println!("cargo:rerun-if-changed={}", lib.with_file_name("build-version").display());
    // The real folder, not the project's link to it: an installed binary outlives the clone.
    let lib = fs::canonicalize(&lib).unwrap_or(lib);
    let include = lib.parent().expect("libtorch/lib has a parent").join("include");

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

    cc::Build::new().std("c11").pic(true).opt_level(2).file("src/ffi/jpeg.c").compile("nepa_jpeg");

    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

/// One translation unit of all C++ files: reading libtorch's headers takes most of the time, and this way it happens
/// once.
fn one_unit() -> PathBuf {
    let sources = fs::canonicalize("src/ffi").expect("src/ffi lies beside build.rs");
    let mut files = Vec::new();
    let mut folders = vec![sources];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src/ffi can be read") {
            let path = entry.expect("src/ffi can be read").path();
            match path.extension() {
                None if path.is_dir() => folders.push(path),
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
