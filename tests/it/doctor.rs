//! `nepa doctor`: a line for each thing that a run needs, and what to do where one does not work.

use crate::common::faults::strike;
use crate::common::simulated_cuda::{CUDA, link_libtorch, loaded_from, simulated};
use crate::common::*;

/// The line about one thing, and the advice below it.
fn about<'a>(said: &'a Said, what: &str) -> (&'a str, &'a str) {
    let mut lines = said.stdout.lines().skip_while(|line| line.get(6..).is_none_or(|rest| !rest.starts_with(what)));
    let line = lines.next().unwrap_or_else(|| panic!("nothing about {what}: {said}"));
    (line, lines.next().and_then(|next| next.trim().strip_prefix("-> ")).unwrap_or_default())
}

#[test]
fn a_machine_that_works_is_said_to() {
    let folder = Folder::new();
    let said = folder.nepa(&["doctor"]);
    said.succeeds().prints(&["everything that a run needs works"]);
    for what in
        ["nepa", "processor", "threads", "memory", "libtorch", "computing", "GPU", "JPEG", "files", "disk", "cache"]
    {
        let (line, _) = about(&said, what);
        assert!(line.starts_with("ok") || line.starts_with("note"), "{line}");
    }
    assert!(about(&said, "nepa").0.contains(&format!("nepa {}, libtorch 2.", env!("CARGO_PKG_VERSION"))), "{said}");
    assert!(about(&said, "computing").0.contains("a product and its gradient are right"), "{said}");
    assert!(about(&said, "disk").0.contains("runs: writable, "), "{said}");
    assert!(about(&said, "distributed").0.contains("one process: neither torchrun nor srun"), "{said}");
    let left: Vec<_> = std::fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "it leaves {left:?}");
    folder.nepa(&["doctor", "--help"]).succeeds().prints(&["--out", "Exit code"]);
    folder.nepa(&["docter"]).fails(2).says(&["doctor"]);
}

#[test]
fn what_does_not_work_is_told_with_what_to_do() {
    let folder = Folder::new();
    let run = |env: &[(&str, &str)], args: &[&str]| folder.nepa_with(env, &[&["doctor"], args].concat());

    let said = run(&[("NEPA_CPU_KERNELS", "avx51")], &[]);
    said.fails(1).prints(&["something has to be fixed"]);
    let (line, advice) = about(&said, "processor");
    assert!(line.starts_with("fix") && line.contains("unknown kernels `avx51`; did you mean `avx512`?"), "{said}");
    assert!(advice.contains("expected avx512, avx2, plain or 0"), "{said}");

    let below = folder.path("").canonicalize().unwrap().display().to_string();
    for (kinds, number, reason) in [(",create,", "30", "Read-only file system"), (",write,", "28", "No space left")] {
        let said = run(&[strike(&below, kinds, "1", number), vec![("FAULT_LASTS", "1")]].concat(), &["--out", "a/b"]);
        let (line, advice) = about(said.fails(1), "disk");
        assert!(line.starts_with("fix") && line.contains("cannot be written to: ") && line.contains(reason), "{said}");
        assert!(advice.contains("choose another folder"), "{said}");
    }
    let said = run(&strike(&below, ",lock,", "1", "37"), &[]);
    let (line, advice) = about(said.succeeds(), "disk");
    assert!(line.starts_with("note") && line.contains("without locks") && advice.contains("its own --out"), "{said}");

    let said = run(&[("RANK", "0")], &[]);
    let (line, advice) = about(said.fails(1), "distributed");
    assert!(line.contains("RANK is set in the environment, but not WORLD_SIZE"), "{said}");
    assert!(advice.contains("torchrun sets all of them"), "{said}");
    let group = |host| [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "1234"), ("MASTER_ADDR", host)];
    let said = run(&group("127.0.0.1"), &[]);
    assert!(about(said.succeeds(), "distributed").0.contains("rank 1 of 2, rendezvous at 127.0.0.1:1234"), "{said}");
    let said = run(&group("no-such-machine.invalid"), &[]);
    assert!(about(said.fails(1), "distributed").0.contains("which cannot be found: "), "{said}");

    let said = run(&[("NEPA_LIBJPEG", "none")], &[]);
    let (line, advice) = about(said.succeeds(), "JPEG");
    assert!(
        line.starts_with("note") && line.contains("zune-jpeg") && advice.contains("install libjpeg-turbo"),
        "{said}"
    );

    folder.write("file", "");
    let said = run(&[("NEPA_CACHE", &format!("{below}/file/cache"))], &[]);
    let (line, advice) = about(said.succeeds(), "cache");
    assert!(line.starts_with("note") && line.contains("cannot be written to"), "{said}");
    assert!(advice.contains("set NEPA_CACHE"), "{said}");
}

#[test]
fn gpus_are_tried() {
    let folder = Folder::on_cpu();
    let said = simulated(&folder, &[("NEPA_SIMULATED_CUDA_DEVICES", "2")], &["doctor"]);
    let (line, _) = about(said.succeeds(), "GPU");
    assert!(
        line.contains("cuda:0 computes, ") && line.contains("cuda:1 computes, ") && line.contains(" GB free"),
        "{said}"
    );
    let settings = [("NEPA_SIMULATED_CUDA_DEVICES", "0"), ("CUDA_VISIBLE_DEVICES", "7")];
    let said = simulated(&folder, &settings, &["doctor"]);
    let (line, advice) = about(said.succeeds(), "GPU");
    assert!(line.starts_with("note") && line.contains("sees no GPU"), "{said}");
    assert!(advice.contains("CUDA_VISIBLE_DEVICES is \"7\""), "{said}");

    let libraries = folder.path("torch/lib");
    link_libtorch(&libraries);
    folder.write(&format!("torch/lib/{CUDA}"), "not a library");
    let (name, value) = loaded_from(&libraries);
    let said = folder.nepa_with(&[(name, &value)], &["doctor"]);
    let (line, advice) = about(said.fails(1), "GPU");
    assert!(line.starts_with("fix") && line.contains("CUDA library cannot be opened: "), "{said}");
    assert!(advice.contains("cargo xtask setup --cuda"), "{said}");
}
