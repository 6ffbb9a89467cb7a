//! `cargo xtask gpu-check` in its rehearsal, on the simulated CUDA. xtask/tests/gpu_check.rs has what hangs and fails.

use crate::common::simulated_cuda::environment;
use crate::common::{Folder, TINY};
use serde_json::Value;
use std::process::Command;

#[test]
#[ignore = "takes a minute; cargo xtask test --simulated-cuda runs it"]
fn a_rehearsal_fills_both_reports() {
    let folder = Folder::on_cpu();
    let out = folder.path("out");
    // As its users start it. cargo builds it where that has not been done.
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--package", "xtask", "--", "gpu-check", "--rehearsal"]);
    command.args(["--nepa", env!("CARGO_BIN_EXE_nepa")]).arg("--out").arg(&out);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).envs(environment());
    // The bits of the simulation, which computes by ATen's operations, too.
    command.env("NEPA_CPU_KERNELS", "0");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");

    let text = folder.text("out/report.md");
    let report: Value = folder.json("out/report.json");
    let names = ["device", "parity", "step", "resume", "recipes", "nccl", "data", "reference"];
    // The verdict, then the table, then the sections.
    assert!(text.starts_with("# nepa gpu-check\n\n**"), "{text}");
    let table = text.find("| part | state |").unwrap();
    assert!(text.find("## device").unwrap() > table, "{text}");
    let parts = report["parts"].as_array().unwrap();
    assert_eq!(parts.iter().map(|part| part["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
    for (part, name) in parts.iter().zip(names) {
        let state = part["state"].as_str().unwrap();
        let expected: &[&str] = match name {
            "reference" => &["skipped"],
            // The simulation may have no NCCL.
            "nccl" => &["ok", "skipped"],
            _ => &["ok"],
        };
        assert!(expected.contains(&state), "{name}: {part:#}");
        assert!(text.contains(&format!("\n| {name} | {state} |")) && text.contains(&format!("\n## {name}: {state}\n")));
        assert!(said.contains(&format!("{name} {state}: ")), "{said}");
    }

    let number = |place: &str| {
        let value = report.pointer(place).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("{place} is no number: {report:#}"))
    };
    assert_eq!(number("/parts/0/values/measured/gpus"), 1.0);
    assert!(number("/parts/0/values/measured/bfloat16") > 0.0);
    // The simulation's numbers are the CPU's, which are the reference's but for rounding.
    assert!((1e-12..1e-5).contains(&number("/parts/1/values/gelu-affine/gradient")));
    assert!(number("/parts/1/values/training/loss") < 1e-5);
    for size in ["base", "large"] {
        let value = |name: &str| number(&format!("/parts/2/values/{size}/{name}"));
        assert!(value("images_per_second") > 0.0 && value("mfu") > 0.0);
        assert!((0.5..2.0).contains(&value("memory_of_estimate")), "{report:#}");
    }
    assert_eq!(number("/parts/3/values/difference"), 0.0);
    let [resumed, killed] = ["resumed_from", "killed_at"].map(|name| number(&format!("/parts/3/values/{name}")));
    assert!(resumed >= 25.0 && killed >= 50.0 && resumed <= 100.0, "{resumed} {killed}");
    for recipe in ["pretrain_vits", "finetune_vitb", "visualize"] {
        assert_eq!(number(&format!("/parts/4/values/{recipe}/difference")), 0.0);
    }
    assert!(number("/parts/6/values/needed") > 0.0);
    // No path of this machine.
    let home = std::env::var("HOME").unwrap();
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")) && (home == "/" || !text.contains(&home)), "{text}");
}

#[test]
fn one_process_alone_opens_a_group_where_that_is_asked_for() {
    let folder = Folder::on_cpu();
    folder.write(
        "recipe.rhai",
        format!(
            "let m = nn::vit_nepa({TINY});\n\
             let gradients = dist::gradients(m);\n\
             gradients.backward(m.forward(ones([2, 3, 8, 8])).square().mean());\n\
             print(`${{dist::all_reduce(tensor([2.0])).item()}} ${{optim::clip_grad_norm(m, 1.0).item()}}`);"
        ),
    );
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--nproc", "1"];
    let plain = folder.nepa(&args);
    let alone = folder.nepa_with(&[("NEPA_DIST_ALONE", "1")], &args);
    assert_eq!(plain.succeeds().stdout, alone.succeeds().stdout);
    // Only a group looks for an interface.
    let nowhere = ("GLOO_SOCKET_IFNAME", "nowhere");
    folder.nepa_with(&[nowhere], &args).succeeds();
    folder.nepa_with(&[nowhere, ("NEPA_DIST_ALONE", "1")], &args).fails(1).says(&["failed in connecting", "nowhere"]);
}
