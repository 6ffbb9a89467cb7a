//! Setting libtorch up: the first time, again, in the face of every trouble, interrupted, and two at once.

mod world;

use std::{
    env, fs,
    os::unix::{fs::symlink, process::ExitStatusExt},
    process::{Command, Stdio},
};
use world::{PIP_WORKS, Ran, World, python, wait_for};

#[test]
fn the_first_setup_makes_everything_and_the_second_nothing() {
    let world = World::new();
    let first = world.set_up();
    assert!(first.err.contains("Setting up libtorch 2.11.0 (CPU)"), "{}", first.err);
    let layout = world.layout("cpu");
    assert_eq!(world.link(), layout);
    assert_eq!(fs::read_to_string(layout.join("build-version")).unwrap(), "2.11.0");
    for file in ["include/ATen/ATen.h", "lib/libtorch_cpu.so", "lib/libextra.so"] {
        assert!(layout.join(file).is_file(), "{file}");
    }
    assert!(!layout.join("lib/libtorch_cuda.so").exists());
    assert_eq!(layout.join("lib/libtorch.so").exists(), cfg!(target_os = "linux"));
    assert_eq!(world.cached().len(), 1, "{:?}", world.cached());

    let second = world.set_up();
    assert_eq!(second.err, "");
    assert_eq!(world.pip_calls(), 2);
    // Nor does another clone fetch anything.
    fs::remove_file(world.path("project/.libtorch")).unwrap();
    assert_eq!(world.set_up().err, "");
    assert_eq!((world.link(), world.pip_calls()), (layout, 2));
}

/// Puts the machine into a state, then expects a failed set-up that says certain things and leaves nothing behind.
#[track_caller]
fn fails(trouble: impl FnOnce(&World, &mut Command), says: &[&str]) {
    let world = World::new();
    let mut command = world.xtask(&["setup"]);
    trouble(&world, &mut command);
    let ran = Ran::of(command.output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.err);
    for text in says {
        assert!(ran.err.contains(text), "{text:?} is not in: {}", ran.err);
    }
    assert_eq!(world.cached(), [""; 0]);
    assert!(!world.path("project/.libtorch").is_symlink());
}

#[test]
fn missing_programs_are_told_before_anything_is_fetched() {
    let only_ours = |w: &World, c: &mut Command| {
        c.env("PATH", w.path("bin"));
    };
    fails(
        |w, c| {
            only_ours(w, c);
            w.no_script("python3")
        },
        &["no `python3`", "apt install python3 python3-pip", "LIBTORCH"],
    );
    fails(|w, _| w.script("python3", "echo False"), &["`python3` has none", "apt install python3-pip", "ensurepip"]);
    fails(|w, _| w.script("python3", "echo no such version >&2; exit 1"), &["does not work: no such version"]);
    fails(
        |w, c| {
            only_ours(w, c);
            w.no_script("c++")
        },
        &["no C++ compiler `c++`", "apt install g++", "CXX"],
    );
    fails(
        |_, c| {
            c.env("CXX", "no-such-compiler -m64");
        },
        &["no C++ compiler `no-such-compiler`"],
    );
    fails(|w, _| w.script("c++", "echo bad flag >&2; exit 1"), &["cannot compile C++17 (bad flag)", "apt install g++"]);
}

#[test]
fn want_of_space_is_told() {
    let df = "echo Filesystem 1024-blocks Used Available Capacity Mounted; echo disk 100 99 1 99% /";
    // The test's wheels are small, but not that small.
    fails(|w, _| w.script("df", df), &["0.0 GB free", "NEPA_CACHE"]);
    let full = "echo 'ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device'; exit 1";
    fails(|w, _| w.pip(full), &["filled up in the middle", "NEPA_CACHE"]);
}

#[test]
fn an_unwritable_cache_is_told() {
    let below_a_file = |w: &World, c: &mut Command| {
        c.env("NEPA_CACHE", w.path("wheels.txt/cache"));
    };
    fails(below_a_file, &["cannot write to the cache folder", "Set NEPA_CACHE"]);
    fails(
        |w, c| {
            c.env_remove("NEPA_CACHE").env("XDG_CACHE_HOME", w.path("wheels.txt"));
        },
        &["wheels.txt/nepa", "Set NEPA_CACHE"],
    );
}

#[test]
fn what_pip_says_is_reduced_to_what_matters() {
    let pip = |text: &'static str| move |w: &World, _: &mut Command| w.pip(text);
    fails(pip("echo 'no such option: --platform'; exit 2"), &["too old", "--upgrade pip"]);
    fails(pip("kill -9 $$"), &["stopped by signal 9"]);
    fails(pip("echo one; echo ERROR: two; echo three; exit 1"), &["could not download torch: ERROR: two\n"]);
    fails(
        pip("printf 'PK' > \"$dest/torch-2.11.0-py3-none-manylinux2014_x86_64.whl\""),
        &["cannot unpack torch", "zip"],
    );
    let broken = "echo 'WARNING: Retrying after connection broken by ...'; exit 1";
    fails(pip(broken), &["could not reach its package index", "Check the connection"]);
}

#[test]
fn a_connection_that_breaks_midway_is_tried_again() {
    let world = World::new();
    // The first call leaves a part where pip would, long enough to be seen.
    world.pip(&format!(
        "if [ ! -e \"$STORE/broke\" ]; then : > \"$STORE/broke\"; mkdir -p \"$TMPDIR/pip-1\"\n\
         echo part > \"$TMPDIR/pip-1/torch-2.11.0-py3-none-manylinux2014_x86_64.whl\"; sleep 0.5\n\
         echo 'ReadTimeoutError: Read timed out.'; exit 1; fi\n{PIP_WORKS}"
    ));
    let ran = world.set_up();
    assert!(ran.err.contains("trying torch again"), "{}", ran.err);
    assert_eq!(world.pip_calls(), 3);
}

#[test]
fn the_real_pip_checks_what_arrives() {
    let real = |w: &World, c: &mut Command| {
        w.script("python3", &format!("exec {} \"$@\"", python().display()));
        c.env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", w.path("store"));
    };
    let world = World::new();
    let mut command = world.xtask(&["setup"]);
    real(&world, &mut command);
    let ran = Ran::of(command.output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);

    fails(
        |w, c| {
            real(w, c);
            let pins = fs::read_to_string(w.path("wheels.txt")).unwrap();
            let wrong = pins.split(' ').map(|f| if f.len() == 64 { "0".repeat(64) } else { f.to_string() });
            fs::write(w.path("wheels.txt"), wrong.collect::<Vec<_>>().join(" ")).unwrap();
        },
        &["SHA-256 differs", "torch"],
    );
    fails(
        |w, c| {
            real(w, c);
            c.env_remove("PIP_NO_INDEX").env_remove("PIP_FIND_LINKS");
            c.env("PIP_INDEX_URL", "http://127.0.0.1:9/simple").env("PIP_RETRIES", "1");
        },
        &["could not reach its package index"],
    );
    fails(
        |w, c| {
            real(w, c);
            c.env("PIP_FIND_LINKS", w.path("home"));
        },
        &["did not find torch-2.11.0"],
    );
}

#[test]
fn whatever_kills_a_setup_the_next_one_starts_clean() {
    // Not SIGINT, which whoever starts a job in the background has it ignore.
    for signal in [9, 15] {
        let world = World::new();
        let mut child = world.hanging();
        let kill = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().signal(), Some(signal));
        assert!(!world.layout("cpu").exists() && !world.path("project/.libtorch").is_symlink());
        assert!(world.cached()[0].starts_with("staging-"), "{:?}", world.cached());

        world.pip(PIP_WORKS);
        world.set_up();
        assert_eq!(world.cached().len(), 1, "{:?}", world.cached());
        assert_eq!(world.link(), world.layout("cpu"));
    }
}

#[test]
fn two_at_once_wait_for_each_other() {
    let world = World::new();
    world.pip(&format!(": > \"$STORE/hangs\"; sleep 0.5; {PIP_WORKS}"));
    let first = world.xtask(&["setup"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&world.path("store/hangs"));
    let second = world.set_up();
    assert!(second.err.contains("Waiting for another set-up"), "{}", second.err);
    let first = Ran::of(first.wait_with_output().unwrap());
    assert_eq!(first.code, 0, "{}", first.err);
    assert_eq!((world.pip_calls(), world.cached().len()), (2, 1));
}

#[test]
fn a_damaged_cache_is_told_and_made_anew() {
    let world = World::new();
    world.script("cargo", "");
    world.set_up();
    let lib = world.layout("cpu").join("lib/libtorch_cpu.so");
    let manifest = world.layout("cpu").join("manifest.txt");
    for (says, damage) in [
        ("lib/libtorch_cpu.so has 3 bytes instead of", &(|| fs::write(&lib, "abc").unwrap()) as &dyn Fn()),
        ("lib/libtorch_cpu.so: No such file", &|| fs::remove_file(&lib).unwrap()),
        ("it has no manifest", &|| fs::remove_file(&manifest).unwrap()),
        ("another version of this set-up made it", &|| fs::write(&manifest, "old\n").unwrap()),
    ] {
        damage();
        // Any command finds out.
        let ran = world.run(&["test"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.err.contains("is damaged") && ran.err.contains(says), "{says:?}: {}", ran.err);
        assert!(fs::read_to_string(&lib).unwrap().starts_with("content"));
        assert_eq!(world.cached().len(), 1, "{:?}", world.cached());
    }
}

#[test]
fn cuda_stays_until_setup_says_otherwise() {
    let world = World::new();
    world.script("cargo", "echo \"$@\" >> \"$STORE/cargo\"");
    let ran = world.run(&["setup", "--cuda"]);
    if cfg!(target_os = "macos") {
        return;
    }
    assert_eq!(ran.code, 0, "{}", ran.err);
    let site = world.layout("cuda").join("site");
    assert_eq!(world.link(), site.join("torch"));
    for file in ["torch/build-version", "torch/lib/libtorch_cuda.so", "nvidia/cu13/lib/libextra.so"] {
        assert!(site.join(file).is_file(), "{file}");
    }
    assert!(!site.join("nvidia/__init__.py").exists());

    world.run(&["test"]);
    assert_eq!(world.link(), site.join("torch"));
    // Even if the cache was emptied meanwhile.
    fs::remove_dir_all(world.path("cache")).unwrap();
    let ran = world.run(&["test"]);
    assert!(ran.err.contains("(CUDA)"), "{}", ran.err);
    assert_eq!(world.link(), site.join("torch"));

    world.set_up();
    assert_eq!(world.link(), world.layout("cpu"));
    let cargo = fs::read_to_string(world.path("store/cargo")).unwrap();
    assert!(cargo.contains("clean --quiet --package torch-sys --profile release"), "{cargo}");
    world.run(&["test"]);
    assert_eq!(world.link(), world.layout("cpu"));
}

#[test]
fn a_link_elsewhere_is_replaced_and_a_folder_in_its_place_told() {
    let world = World::new();
    let link = world.path("project/.libtorch");
    symlink("/nowhere/libtorch-2.10.0-cpu", &link).unwrap();
    world.set_up();
    assert_eq!(world.link(), world.layout("cpu"));

    fs::remove_file(&link).unwrap();
    fs::create_dir(&link).unwrap();
    fs::write(link.join("mine"), "").unwrap();
    let ran = world.run(&["setup"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("cannot make the link") && ran.err.contains("move it away"), "{}", ran.err);
    assert!(link.join("mine").exists());
}

#[test]
fn a_libtorch_of_the_users_own_is_checked_and_used() {
    let world = World::new();
    let own = world.path("own");
    let with = |name: &str, value: &str| {
        let mut command = world.xtask(&["setup"]);
        Ran::of(command.env(name, value).output().unwrap())
    };
    let says = |ran: Ran, code, text: &str| {
        assert_eq!(ran.code, code, "{}", ran.err);
        assert!(format!("{}{}", ran.out, ran.err).contains(text), "{text:?} is not in: {}{}", ran.out, ran.err);
    };
    let path = own.to_str().unwrap();
    says(with("LIBTORCH", ""), 1, "set but empty");
    says(with("LIBTORCH", "libtorch"), 1, "absolute path");
    says(with("LIBTORCH", path), 1, "there is no");
    fs::create_dir_all(own.join("lib")).unwrap();
    fs::create_dir_all(own.join("include/ATen")).unwrap();
    fs::write(own.join(format!("lib/libtorch_cpu{}", env::consts::DLL_SUFFIX)), "").unwrap();
    says(with("LIBTORCH", path), 1, "include/ATen/ATen.h");
    fs::write(own.join("include/ATen/ATen.h"), "").unwrap();
    fs::write(own.join("version.py"), "x = 1\n__version__ = '2.9.1+cpu'\n").unwrap();
    says(with("LIBTORCH", path), 1, "has version 2.9.1; 2.11.0 is needed");
    fs::write(own.join("build-version"), "2.11.0+cu130\n").unwrap();
    says(with("LIBTORCH", path), 0, "your own libtorch");

    world.script("python3", "echo");
    says(with("LIBTORCH_USE_PYTORCH", "1"), 1, "python3 has no PyTorch");
    world.script("python3", &format!("echo {path}"));
    says(with("LIBTORCH_USE_PYTORCH", "1"), 0, "your own libtorch");
    assert_eq!((world.pip_calls(), world.path("project/.libtorch").is_symlink()), (0, false));

    // What cargo hands over from .cargo/config.toml is not the user's.
    world.pip(PIP_WORKS);
    says(with("LIBTORCH", world.path("project/.libtorch").to_str().unwrap()), 0, "is ready in");
    assert_eq!(world.link(), world.layout("cpu"));
}
