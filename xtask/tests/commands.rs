//! The commands' ways with arguments, and what they start.

mod world;

use std::fs;
use world::{PIP_WORKS, Ran, World};

/// A world where libtorch is set up, `cargo build` names a `nepa`, and both report how they were called.
fn world() -> World {
    let world = World::new();
    world.pip(PIP_WORKS);
    world.set_up();
    let report = "echo \"$(basename \"$0\") $* | $(basename \"$(pwd)\") | ${LIBTORCH-none} ${CARGO_PKG_NAME-none}\"";
    world.script("nepa", &format!("{report}; exit 7"));
    let library = artifact("lib", "null");
    let program = artifact("bin", &format!("\"{}\"", world.path("bin/nepa").display()));
    world.script(
        "cargo",
        &format!(
            "{report} | tee -a \"$STORE/cargo\" >&2\n[ \"$1\" = build ] && printf '%s\\n' '{library}' '{program}'\n\
             exit ${{CARGO_CODE-0}}"
        ),
    );
    world
}

/// One of cargo's messages: what it built, and the executable if it is one.
fn artifact(kind: &str, executable: &str) -> String {
    format!(
        r#"{{"reason":"compiler-artifact","package_id":"path+file:///nepa#0.1.0","manifest_path":"/nepa/Cargo.toml",
        "target":{{"kind":["{kind}"],"crate_types":["{kind}"],"name":"nepa","src_path":"/nepa/src/main.rs",
        "edition":"2024","doc":true,"doctest":false,"test":true}},"profile":{{"opt_level":"3","debuginfo":0,
        "debug_assertions":false,"overflow_checks":false,"test":false}},"features":[],"filenames":[],
        "executable":{executable},"fresh":true}}"#
    )
    .replace('\n', "")
}

#[test]
fn run_builds_and_becomes_nepa_in_the_users_folder() {
    let world = world();
    let mut command = world.xtask(&["run", "a b.rhai", "--help", "--steps", "3"]);
    command.current_dir(world.path("project/recipes"));
    // As `cargo run` sets them.
    command.env("LIBTORCH", world.path("project/.libtorch")).env("CARGO_PKG_NAME", "xtask");
    let ran = Ran::of(command.output().unwrap());
    assert_eq!(ran.out, "nepa run a b.rhai --help --steps 3 | recipes | none none\n");
    assert_eq!(ran.code, 7);
    let build = "cargo build --release --bin nepa --message-format=json-render-diagnostics | project | none none\n";
    assert_eq!(ran.err, build);

    let failed = Ran::of(world.xtask(&["run", "x"]).env("CARGO_CODE", "101").output().unwrap());
    assert_eq!((failed.code, failed.out.as_str()), (101, ""));
}

#[test]
fn test_takes_the_whole_workspace_unless_told() {
    let world = world();
    for (args, cargo) in [
        (&["test"][..], "cargo test --workspace"),
        (&["test", "name", "--", "-p"], "cargo test --workspace name -- -p"),
        (&["test", "-p", "nepa"], "cargo test -p nepa"),
        (&["test", "--package=nepa", "--release"], "cargo test --package=nepa --release"),
    ] {
        let ran = world.run(args);
        assert!(ran.err.starts_with(&format!("{cargo} | project")), "{}", ran.err);
    }
}

#[test]
fn bench_knows_the_names() {
    let world = world();
    assert!(world.run(&["bench"]).out.contains("there are none"));
    fs::create_dir_all(world.path("project/benches/loading")).unwrap();
    fs::write(world.path("project/benches/training.rs"), "").unwrap();
    fs::write(world.path("project/benches/loading/main.rs"), "").unwrap();
    assert_eq!(world.run(&["bench"]).out, "Benchmarks: loading, training\n");
    let wrong = world.run(&["bench", "trainin"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("did you mean `training`?") && wrong.err.contains("loading, training"), "{}", wrong.err);
    let ran = world.run(&["bench", "training", "--quick"]);
    assert!(ran.err.starts_with("cargo bench --bench training -- --quick | project"), "{}", ran.err);
}

#[test]
fn fuzz_gives_each_target_its_seeds() {
    let world = world();
    for folder in ["fuzz/seeds/two", "images"] {
        fs::create_dir_all(world.path("project").join(folder)).unwrap();
    }
    fs::write(world.path("project/fuzz/seeds.txt"), "# Targets\none images/*.png\ntwo\n").unwrap();
    fs::write(world.path("project/images/a.png"), "a").unwrap();
    fs::write(world.path("project/fuzz/seeds/two/found-b"), "b").unwrap();
    let ran = world.run(&["fuzz", "--seconds", "7"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let calls: Vec<&str> = ran.err.lines().filter(|line| line.contains("fuzz run")).collect();
    assert_eq!(calls.len(), 2, "{}", ran.err);
    for (call, name) in calls.iter().zip(["one", "two"]) {
        assert!(call.starts_with("cargo +nightly fuzz run --sanitizer none readers "), "{call}");
        assert!(call.contains(&format!("fuzz/corpus/{name} -- ")) && call.contains("-max_total_time=7"), "{call}");
    }
    assert!(world.path("project/fuzz/corpus/one/images-a.png").is_file());
    assert!(world.path("project/fuzz/corpus/two/fuzz-seeds-two-found-b").is_file());

    let ran = world.run(&["fuzz", "two"]);
    assert_eq!(ran.err.lines().filter(|line| line.contains("fuzz run")).count(), 1, "{}", ran.err);
    for (args, says) in
        [(["fuzz", "three", ""], "Targets: one, two"), (["fuzz", "--seconds", "x"], "expected a whole number")]
    {
        let ran = world.run(&args);
        assert!(ran.code == 2 && ran.err.contains(says), "{}", ran.err);
    }
    world.script("cargo", "exit 1");
    let ran = world.run(&["fuzz"]);
    assert!(ran.code == 1 && ran.err.contains("rustup toolchain install nightly"), "{}", ran.err);
    world.script("cargo", "[ \"$2\" = --version ]");
    let ran = world.run(&["fuzz"]);
    assert!(ran.code == 1 && ran.err.contains("cargo install cargo-fuzz"), "{}", ran.err);
}

#[test]
fn install_copies_and_tells_about_path() {
    let world = world();
    let there = world.path("there");
    let ran = world.run(&["install", "--to", there.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("not on PATH") && ran.out.contains("export PATH"), "{}", ran.out);
    // Again, over the old one.
    let mut command = world.xtask(&["install", &format!("--to={}", there.display())]);
    let ran = Ran::of(command.env("PATH", format!("{}:/usr/bin:/bin", there.display())).output().unwrap());
    assert!(ran.out.contains("is on PATH"), "{}", ran.out);
    assert_eq!(fs::read_dir(&there).unwrap().count(), 1);

    assert_eq!(world.run(&["install"]).code, 0);
    assert!(world.path("home/.cargo/bin/nepa").is_file());
    let mut command = world.xtask(&["install"]);
    command.env("CARGO_HOME", world.path("cargo-home"));
    assert!(command.output().unwrap().status.success() && world.path("cargo-home/bin/nepa").is_file());

    let ran = world.run(&["install", "--to", world.path("wheels.txt/x").to_str().unwrap()]);
    assert!(ran.code == 1 && ran.err.contains("cannot create"), "{}", ran.err);
}

#[test]
fn mistakes_are_answered_with_the_nearest_name() {
    let world = World::new();
    for (args, says) in [
        (&["tset"][..], "unknown command `tset` (did you mean `test`?)"),
        (&["--hlep"], "unknown option `--hlep`"),
        (&["setup", "--cud"], "did you mean `--cuda`?"),
        (&["install", "--ot", "x"], "did you mean `--to`?"),
        (&["install", "--to"], "--to needs a folder"),
        (&["run"], "no recipe given"),
    ] {
        let ran = world.run(args);
        assert_eq!(ran.code, 2, "{args:?}");
        assert!(ran.err.contains(says), "{says:?} is not in: {}", ran.err);
    }
    for args in [&["--help"][..], &[], &["help"], &["run", "--help"], &["test", "-h"], &["bench", "--help"]] {
        let ran = world.run(args);
        assert!(ran.code == 0 && ran.out.starts_with("Usage: cargo xtask"), "{args:?}");
    }
    assert_eq!(world.pip_calls(), 0);
}
