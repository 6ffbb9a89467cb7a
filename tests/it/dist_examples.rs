//! The examples of processes that train together: a loop by hand, a batch script, expected scaling.

use crate::common::{Folder, Said, assert_close, repository, test_device};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

fn example(name: &str) -> String {
    repository("examples").join(name).display().to_string()
}

/// The number that ends each line.
fn last_numbers(said: &Said) -> Vec<f64> {
    let last = |line: &str| line.split_whitespace().last().and_then(|word| word.parse().ok());
    said.stdout.lines().map(|line| last(line).unwrap_or_else(|| panic!("no number in `{line}`"))).collect()
}

#[test]
fn the_loop_by_hand_gives_the_same_on_one_and_two_processes() {
    let (script, folder) = (example("distributed_loop.rhai"), Folder::new());
    let run = |more: &[&str]| {
        let args = ["run", &script, "--device", "cpu", "--threads", "1", "--dist-timeout", "30", "--set", "steps=40"];
        let said = folder.nepa(&[&args[..], more].concat());
        said.succeeds().prints(&["2000 held-out images"]);
        last_numbers(&said)
    };
    let alone = run(&[]);
    assert_eq!(alone.len(), 3, "losses of steps 20 and 40, and of the held-out images: {alone:?}");
    assert!(alone[1] < alone[0], "it learns: {alone:?}");
    // Rank 0 alone prints; the batches that the two share are those of one, short last ones included.
    assert_close(&run(&["--nproc", "2"]), &alone, 1e-6);
}

/// A folder of programs: nepa, and what srun does with two tasks of one machine.
fn with_srun(folder: &Folder) {
    folder.write(
        "bin/srun",
        r#"#!/bin/bash
echo "srun $*" >> srun.log
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_STEP_NODELIST=127.0.0.1 SLURM_NODEID=0 SLURM_STEP_ID=0
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"#,
    );
    std::fs::set_permissions(folder.path("bin/srun"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink(env!("CARGO_BIN_EXE_nepa"), folder.path("bin/nepa")).unwrap();
}

/// Runs the batch script as a job of its own.
fn batch(folder: &Folder, job: u32, args: &[&str]) -> Said {
    let (device, environment) = test_device();
    let path = format!("{}:{}", folder.path("bin").display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .arg(example("slurm.sbatch"))
        .args(args)
        .current_dir(folder.path(""))
        .env("PATH", path)
        .env_remove("NEPA_STDLIB")
        .envs(environment)
        .envs([("DEVICE", device), ("SLURM_CPUS_PER_TASK", "1"), ("NEPA_DIST_TIMEOUT", "30")])
        .env("SLURM_JOB_ID", job.to_string())
        .output()
        .unwrap();
    Said {
        command: format!("sbatch slurm.sbatch {}", args.join(" ")),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn the_batch_script_trains_and_goes_on_where_it_is_submitted_again() {
    assert!(Command::new("bash").args(["-n", &example("slurm.sbatch")]).status().unwrap().success());
    let folder = Folder::new();
    with_srun(&folder);
    folder.write(
        "recipe.rhai",
        r#"
        import "std/pretrain" as pretrain;
        let model = nn::vit_nepa(#{ image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8,
            num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16 });
        let images = data::synthetic(#{ len: 64, classes: 2, size: 8 });
        pretrain::fit(model, images, #{ steps: param("steps", 4), batch: 8, log_every: 1 });
        "#,
    );
    // The port is made from the job's number: other tests of this machine must not meet here.
    let job = std::process::id();
    let first = batch(&folder, job, &["recipe.rhai"]);
    first.succeeds().says(&["on 2 processes", "1 thread each", "runs/recipe"]);
    assert_eq!(folder.names("runs/recipe/checkpoints/pretrain"), ["step-00000004"]);
    let again = batch(&folder, job + 1, &["recipe.rhai", "--set", "steps=6"]);
    again.succeeds().says(&["resumed from step 4", "steps: was 4, now 6"]);
    assert_eq!(folder.text("runs/recipe/metrics.jsonl").lines().count(), 6);
    assert_eq!(folder.text("srun.log").lines().count(), 2);

    batch(&folder, job, &[]).fails(2).says(&["usage: sbatch"]);
    batch(&folder, job + 2, &["none.rhai"]).fails(1).says(&["none.rhai"]);
}

#[test]
fn expected_scaling_is_printed_for_both_models() {
    let said = Folder::new().nepa(&["run", &example("scaling.rhai"), "--device", "cpu"]);
    said.succeeds().prints(&["ViT-B/14: 85.", "ViT-L/14: 303."]);
    let column =
        |row: &str, i: usize| row.split("  ").filter(|cell| !cell.is_empty()).nth(i).unwrap().trim().to_string();
    let rows: Vec<&str> = said.stdout.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    let gpus: Vec<String> = rows.iter().map(|row| column(row, 0)).collect();
    assert_eq!(gpus, ["1", "8", "64", "512", "1", "8", "64", "512"]);
    for row in rows {
        let share: f64 = column(row, 9).trim_end_matches(" %").parse().unwrap();
        assert!((1.0..=100.0).contains(&share), "{row}");
        let parts: f64 = [2, 3, 5, 6].iter().map(|i| column(row, *i).parse::<f64>().unwrap()).sum();
        let step: f64 = column(row, 7).parse().unwrap();
        assert!((parts - step).abs() < 0.25, "a step is the sum of its parts: {row}");
    }
}
