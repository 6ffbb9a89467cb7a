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
        .file("src/ffi/autocast.cpp")
        .file("src/ffi/autograd.cpp")
        .file("src/ffi/runtime.cpp")
        .file("src/ffi/tensors.cpp")
        .file("src/ffi/c10d/store.cpp")
        .file("src/ffi/c10d/process_group.cpp")
        .file("src/ffi/c10d/reducer.cpp")
        .file("src/ffi/c10d/nccl.cpp")
        .compile("nepa_shim");

    cc::Build::new().std("c11").pic(true).opt_level(2).file("src/ffi/jpeg.c").compile("nepa_jpeg");

    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
