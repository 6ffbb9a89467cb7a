//! A run that is killed, stopped, or meets a full disk or a damaged file is resumed as if nothing had been.

use crate::common::{Folder, Running, Said, TIMING, assert_checkpoints_whole, copy, fashion, files, names_in};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Two training loops with everything random in them: drop path, position augmentation, crops, flips.
const RECIPE: &str = r#"
import "std/pretrain" as pretrain;
import "std/finetune" as finetune;
let images = data::idx(param("data", ()), "test").take(param("images", 320));
let augment = [transform::random_crop(#{ padding: param("padding", 2) }), transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)];
let model = nn::vit_nepa(#{
    image_size: 28, patch_size: 14, num_channels: 1, hidden_size: param("width", 16), num_hidden_layers: 2,
    num_attention_heads: 2, drop_path_prob: 0.2, pos_embed_rescale: 2.0,
});
run::log(#{ note: "begins" });
pretrain::fit(model, images, #{
    epochs: param("epochs", 4), batch: param("batch", 64), lr: param("lr", 1e-3), log_every: param("log_every", 1),
    save_every: param("save_every", 3), keep: param("keep", 3), keep_every: param("keep_every", 0), transforms: augment,
    on_epoch: |model, ema, state| run::log(#{ note: "epoch", epoch: state.epoch, loss: state.loss }),
});
checkpoint::save(model, run::path("pretrained"));
let classifier = finetune::classifier(model, 10, #{});
finetune::fit(classifier, images.per_class(8, 0), #{ epochs: param("finetune_epochs", 4), batch: 20, log_every: 1, save_every: 3, transforms: augment });
checkpoint::save(classifier, run::path("finetuned"));
run::log(#{ note: "ended", draw: randn([1]).item() });
"#;

fn folder() -> (Folder, String) {
    let folder = Folder::new();
    folder.write("recipe.rhai", RECIPE);
    (folder, format!("data={}", fashion()))
}

fn start(folder: &Folder, data: &str, out: &str, more: &[&str]) -> Running {
    let args = ["run", "recipe.rhai", "--threads", "1", "--device", "cpu", "--set", data, "--out", out];
    folder.start(&[&args[..], more].concat(), &[])
}

fn run(folder: &Folder, data: &str, out: &str, more: &[&str]) -> Said {
    start(folder, data, out, more).finish()
}

/// What a run leaves that must not depend on how often it was stopped.
fn outcome(folder: &Folder, out: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for file in [
        "pretrained/model.safetensors",
        "finetuned/model.safetensors",
        "checkpoints/pretrain/step-00000020/model_ema/model.safetensors",
        "checkpoints/pretrain/step-00000020/optimizer.safetensors",
        "checkpoints/finetune/step-00000016/model_ema/model.safetensors",
    ] {
        all.push((file.to_string(), folder.read(&format!("{out}/{file}"))));
    }
    let metrics = folder.text(&format!("{out}/metrics.jsonl"));
    let line = |line: &str| {
        let mut row: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        row.retain(|name, _| !TIMING.contains(&name.as_str()));
        Value::Object(row).to_string()
    };
    all.push(("metrics".into(), metrics.lines().map(line).collect::<Vec<_>>().join("\n").into_bytes()));
    all
}

#[track_caller]
fn assert_same(folder: &Folder, a: &str, b: &str) {
    for ((name, a), (_, b)) in outcome(folder, a).into_iter().zip(outcome(folder, b)) {
        let words = if name == "metrics" { format!("{}\n----\n{}", text(&a), text(&b)) } else { String::new() };
        assert!(a == b, "{name} differs {words}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs until the run has ended by itself, with `signal` sent at random moments; gives how often it was sent.
fn disturbed(folder: &Folder, data: &str, out: &str, signal: i32, least: usize) -> usize {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("moments by seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut signals = 0;
    loop {
        let mut running = start(folder, data, out, &[]);
        // Later ones too, so that checkpoints come to be between them.
        let most = if signals < least { 900 } else { 5000 };
        let moment = Instant::now() + Duration::from_millis(rng.random_range(50..most));
        let ended = running.ended_before(moment);
        if !ended {
            running.signal(signal);
            signals += 1;
        }
        match ended {
            true => {
                running.finish().succeeds();
                return signals;
            }
            // Before it listens a process is ended by the signal itself, and as it ends it may be too late.
            false => match running.killed() {
                Some(0) => return signals,
                code => assert!(code.is_none_or(|c| c == 128 + signal), "{code:?}"),
            },
        }
        assert_checkpoints_whole(&folder.path(out));
        assert!(signals < 200, "never comes to an end");
    }
}

#[test]
fn killed_at_random_moments_a_run_ends_with_the_same_weights_and_logs() {
    let (folder, data) = folder();
    run(&folder, &data, "whole", &[]).succeeds();
    let mut killed = 0;
    for round in 0.. {
        let out = format!("killed-{round}");
        killed += disturbed(&folder, &data, &out, libc::SIGKILL, 25);
        assert_same(&folder, "whole", &out);
        let left: Vec<PathBuf> = files(&folder.path(&out));
        assert!(!left.iter().any(|f| f.to_string_lossy().contains("/.partial-")), "leftovers: {left:?}");
        if killed >= 25 {
            break;
        }
    }
    println!("killed {killed} times");
}

#[test]
fn stopped_by_sigterm_at_random_moments_a_run_ends_with_the_same_weights_and_logs() {
    let (folder, data) = folder();
    run(&folder, &data, "whole", &[]).succeeds();
    let stopped = disturbed(&folder, &data, "stopped", libc::SIGTERM, 10);
    println!("stopped {stopped} times");
    assert_same(&folder, "whole", "stopped");
}

#[test]
fn ctrl_c_saves_and_prints_the_command_that_goes_on() {
    let (folder, data) = folder();
    run(&folder, &data, "whole", &["--seed", "3"]).succeeds();
    let running = start(&folder, &data, "a b", &["--seed", "3", "--set", "save_every=0"]);
    wait_for_metrics(&folder, "a b", 4);
    running.signal(libc::SIGINT);
    let said = running.finish();
    said.fails(130).says(&[
        "stopping: saving a checkpoint first",
        "pretrain: saved at step",
        "to resume from its last checkpoint",
    ]);
    let saved = names_in(&folder.path("a b/checkpoints/pretrain"));
    assert_eq!(saved.len(), 1, "{saved:?}");
    assert_eq!(folder.json("a b/run.json")["state"], "interrupted");

    // The command as it was printed: seed and parameters are those of the run.
    let command = said.stderr.lines().find_map(|l| l.split_once("last checkpoint: nepa ")).unwrap().1;
    let on_cpu = command.replace("--device cuda", "--device cpu");
    assert!(on_cpu.ends_with("run recipe.rhai --resume 'a b' --device cpu --threads 1"), "{command}");
    let words: Vec<&str> = command.split(' ').collect();
    let at = words.iter().position(|w| *w == "'a").unwrap();
    let args = [&words[..at], &["a b"], &words[at + 2..]].concat();
    folder.nepa(&args).succeeds().says(&["pretrain: resumed from step"]);
    assert_same(&folder, "whole", "a b");
    assert!(folder.text("a b/run.log").contains("resumed from step"));
}

fn wait_for_metrics(folder: &Folder, out: &str, lines: usize) {
    let path = folder.path(&format!("{out}/metrics.jsonl"));
    let until = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(&path).unwrap_or_default().lines().count() < lines {
        assert!(Instant::now() < until, "no {lines} lines of metrics");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_run_stopped_between_its_last_step_and_the_end_of_its_last_epoch_still_ends_the_epoch() {
    let (folder, data) = folder();
    run(&folder, &data, "whole", &[]).succeeds();
    // A checkpoint of the last step is what such a stop leaves, and all that it leaves.
    run(&folder, &data, "stopped", &["--set", "save_every=20"]).succeeds();
    run(&folder, &data, "stopped", &["--set", "save_every=20"]).succeeds().says(&["pretrain: resumed from step 20"]);
    assert_same(&folder, "whole", "stopped");
}

#[test]
fn what_a_run_leaves_that_is_killed_as_it_begins_is_no_obstacle() {
    let folder = Folder::new();
    for left in [
        &["recipe.rhai"][..],
        &["recipe.rhai", "metrics.jsonl"],
        &[".partial-abc"],
        &["recipe.rhai", "metrics.jsonl", "events.out.tfevents.nepa"],
    ] {
        folder.write("o/.lock", "");
        for file in left {
            folder.write(&format!("o/{file}"), "");
        }
        folder.run_with("run::log(#{ a: 1 });", &["--out", "o"]).succeeds();
        assert_eq!(folder.text("o/metrics.jsonl"), "{\"a\":1}\n");
        assert!(!folder.path("o/.partial-abc").exists());
        std::fs::remove_dir_all(folder.path("o")).unwrap();
    }
    // Somebody else's file is.
    folder.write("o/.lock", "");
    folder.write("o/notes.txt", "mine");
    folder.run_with("print(1);", &["--out", "o"]).fails(1).says(&["o is not empty and not a run directory"]);
}

#[test]
fn a_later_ctrl_c_stops_at_once_and_signals_that_come_together_are_one() {
    let (folder, data) = folder();
    let script = RECIPE.replace(
        "on_epoch: |model, ema, state| run::log(",
        "on_epoch: |model, ema, state| { print(\"hook\"); loop { } run::log(",
    );
    folder.write("recipe.rhai", script.replace("loss: state.loss }),", "loss: state.loss }); },"));
    let mut running = start(&folder, &data, "o", &[]);
    running.wait_for("hook");
    while !folder.path("o/checkpoints/pretrain/step-00000003").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    running.signal(libc::SIGINT).signal(libc::SIGINT).signal(libc::SIGTERM);
    assert!(!running.ended_before(Instant::now() + Duration::from_millis(1200)));
    // Slurm's second SIGTERM, at the time limit.
    running.signal(libc::SIGTERM).signal(libc::SIGHUP);
    assert!(!running.ended_before(Instant::now() + Duration::from_millis(100)));
    running.signal(libc::SIGINT);
    running.finish().fails(130);
    assert_checkpoints_whole(&folder.path("o"));
    assert_eq!(names_in(&folder.path("o/checkpoints/pretrain")), ["step-00000003"]);
}

#[test]
fn sigusr1_saves_now_and_goes_on() {
    let (folder, data) = folder();
    let running = start(&folder, &data, "o", &["--set", "save_every=0", "--set", "epochs=20", "--set", "keep=9"]);
    wait_for_metrics(&folder, "o", 4);
    running.signal(libc::SIGUSR1);
    let said = running.finish();
    said.succeeds().says(&["pretrain: saved at step"]);
    assert_eq!(names_in(&folder.path("o/checkpoints/pretrain")).len(), 2);
}

#[test]
fn what_would_change_the_past_is_refused_with_the_difference_and_the_rest_is_noted() {
    let (folder, data) = folder();
    run(&folder, &data, "o", &["--set", "epochs=2"]).succeeds();
    let before = outcome_of_pretraining(&folder);
    for (change, told) in [
        ("lr=0.002", "lr: was 0.001, now 0.002"),
        ("batch=32", "batch: was 64, now 32"),
        ("padding=3", "transforms: was [\"random_crop(padding: 2)"),
        ("width=32", "model.hidden_size: was 16, now 32"),
        ("images=300", "data: was \"320 images, 10 classes"),
    ] {
        let said = run(&folder, &data, "o", &["--set", "epochs=2", "--set", change]);
        said.fails(1).says(&[
            told,
            "--out",
            "pretrain::fit(model, images, #{",
            "recipe.rhai:11",
            "to resume from its last",
        ]);
        assert_eq!(outcome_of_pretraining(&folder), before, "nothing is changed");
    }
    let said = run(&folder, &data, "o", &["--set", "epochs=2", "--seed", "1"]);
    said.fails(1).says(&["seed: was 0, now 1"]);
    // A refused value is not what a later --resume takes over.
    folder.nepa(&["run", "--resume", "o", "--threads", "1"]).succeeds();

    let said = run(&folder, &data, "o", &["--set", "epochs=3", "--set", "log_every=2", "--set", "finetune_epochs=5"]);
    said.fails(1).says(&["pretrain: resumed from step 10", "finetune: cannot resume from", "initial_weights: was "]);
    let said = run(&folder, &data, "again", &["--set", "epochs=2"]);
    said.succeeds();
    let more = ["--set", "epochs=3", "--set", "log_every=2", "--set", "finetune_epochs=5"];
    let said = run(&folder, &data, "again", &[&more[..], &["--allow-change", "initial_weights"]].concat());
    said.succeeds().says(&[
        "parameter epochs: was 2, now 3",
        "  epochs: was 2, now 3",
        "  steps: was 10, now 15",
        "  log_every: was 1, now 2",
        "pretrain: resumed from step 10",
    ]);
    assert_eq!(folder.json("again/run.json")["params"]["epochs"], 3);
    let last = folder.text("again/checkpoints/pretrain/step-00000015/metrics.jsonl");
    let steps: Vec<i64> =
        last.lines().filter_map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].as_i64()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15]);
}

fn outcome_of_pretraining(folder: &Folder) -> Vec<(PathBuf, Vec<u8>)> {
    let all = files(&folder.path("o/checkpoints/pretrain"));
    let metrics = folder.path("o/metrics.jsonl");
    all.into_iter().chain([metrics]).map(|f| (f.clone(), std::fs::read(&f).unwrap())).collect()
}

#[test]
fn a_changed_byte_in_any_file_of_the_newest_checkpoint_is_named_and_the_one_before_is_used() {
    let (folder, data) = folder();
    run(&folder, &data, "whole", &[]).succeeds();
    // Killed in the middle of pretraining, with two checkpoints.
    let running = start(&folder, &data, "killed", &[]);
    let newest = folder.path("killed/checkpoints/pretrain/step-00000006");
    while !newest.exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    running.signal(libc::SIGKILL);
    running.killed();
    for later in ["step-00000009", "step-00000012", "step-00000015"] {
        let _ = std::fs::remove_dir_all(newest.with_file_name(later));
    }
    let inside = files(&newest);
    assert_eq!(inside.len(), 13, "{inside:?}");
    let mut rng = StdRng::seed_from_u64(1);
    for (i, file) in inside.iter().enumerate() {
        let name = file.strip_prefix(folder.path("killed")).unwrap();
        let out = format!("damaged-{i}");
        copy(&folder.path("killed"), &folder.path(&out));
        let path = folder.path(&out).join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
        std::fs::write(&path, bytes).unwrap();
        let said = run(&folder, &data, &out, &[]);
        let name = Path::new(&out).join(name).display().to_string();
        said.succeeds().says(&["is damaged", &name, "resumed from step 3"]);
        assert_same(&folder, "whole", &out);
    }

    // A file that is missing; and no checkpoint left that is whole.
    copy(&folder.path("killed"), &folder.path("gone"));
    std::fs::remove_file(folder.path("gone/checkpoints/pretrain/step-00000006/state.json")).unwrap();
    folder.write("gone/checkpoints/pretrain/step-00000003/optimizer.safetensors", "short");
    let said = run(&folder, &data, "gone", &[]);
    said.fails(1).says(&["no checkpoint in", "is intact", "state.json", "remove this folder"]);
}

#[test]
fn the_newest_and_every_mth_checkpoint_are_kept() {
    let (folder, data) = folder();
    run(&folder, &data, "o", &["--set", "keep=2", "--set", "save_every=2", "--set", "keep_every=8"]).succeeds();
    let kept = names_in(&folder.path("o/checkpoints/pretrain"));
    assert_eq!(kept, ["step-00000008", "step-00000016", "step-00000018", "step-00000020"]);
}

/// Sets how large a file a process may write.
#[cfg(target_os = "linux")]
fn limit_files(pid: u32, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a plain system call on a child of ours.
    assert_eq!(unsafe { libc::prlimit(pid as i32, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) }, 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_takes_no_checkpoint_is_told_and_training_goes_on() {
    let (folder, data) = folder();
    run(&folder, &data, "whole", &[]).succeeds();
    let script = RECIPE.replace(
        "on_epoch: |model, ema, state| run::log(",
        "on_epoch: |model, ema, state| { print(`epoch ${state.epoch}`); run::log(",
    );
    folder.write(
        "recipe.rhai",
        script.replace(
            "loss: state.loss }),",
            "loss: state.loss }); if state.epoch < 3 { let s = seconds(); while seconds() < s + 1.0 { } } },",
        ),
    );
    let running = start(&folder, &data, "o", &["--set", "save_every=5"]);
    running.wait_for("epoch 0");
    while !folder.path("o/checkpoints/pretrain/step-00000005").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    limit_files(running.id(), 20_000);
    running.wait_for("epoch 1").wait_for("epoch 2");
    limit_files(running.id(), libc::RLIM_INFINITY);
    let said = running.finish();
    said.succeeds().says(&[
        "the checkpoint at step 10 could not be written",
        "the last good one is o/checkpoints/pretrain/step-00000005",
    ]);
    let kept = names_in(&folder.path("o/checkpoints/pretrain"));
    let has = |name: &str| kept.iter().any(|k| k == name);
    assert!(has("step-00000005") && !has("step-00000010") && has("step-00000020"), "{kept:?}");
    assert_checkpoints_whole(&folder.path("o"));
    let last = |out: &str| folder.read(&format!("{out}/pretrained/model.safetensors"));
    assert_eq!(last("whole"), last("o"));
}

#[test]
#[cfg(target_os = "linux")]
fn metrics_that_cannot_be_written_for_a_while_are_not_lost() {
    let folder = Folder::new();
    let script = "for i in 0..400 { run::log(#{ step: i, text: \"0123456789012345678901234567890123456789\" }); \
                  if i == 99 || i == 299 { print(i); let s = seconds(); while seconds() < s + 1.0 { } } }";
    folder.write("recipe.rhai", script);
    let running = folder.start(&["run", "recipe.rhai", "--out", "o"], &[]);
    running.wait_for("99");
    limit_files(running.id(), 7_000);
    running.wait_for("299");
    limit_files(running.id(), libc::RLIM_INFINITY);
    running.finish().succeeds().says(&["cannot write", "metrics.jsonl", "tried again"]);
    let metrics = folder.text("o/metrics.jsonl");
    let steps: Vec<i64> =
        metrics.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].as_i64().unwrap()).collect();
    assert_eq!(steps, (0..400).collect::<Vec<i64>>());
}

#[test]
fn a_run_directory_where_no_checkpoint_can_be_made_is_told_before_the_first_step() {
    let (folder, data) = folder();
    folder.write("recipe.rhai", format!("run::write(\"checkpoints\", \"in the way\");\n{RECIPE}"));
    let said = run(&folder, &data, "o", &[]);
    said.fails(1).says(&["cannot read o/checkpoints/pretrain: Not a directory"]);
    assert!(!said.stderr.contains("images/s"), "{said}");
    assert_eq!(folder.json("o/run.json")["state"], "failed");
}

#[test]
fn a_run_whose_last_checkpoint_cannot_be_written_goes_on_but_has_failed() {
    let folder = Folder::new();
    let script = "let model = nn::linear(100, 100);
                  let saver = run::checkpoints(\"loop\", #{ model: model }, #{ every: 2 });
                  let now = saver.resume(#{}, []) ?? #{ step: 0 };
                  while now.step < 3 { now.step += 1; if saver.due(now.step) { saver.save(now.step, now); } }
                  saver.finish(now.step, now);
                  run::log(#{ note: \"after\" });";
    folder.write("recipe.rhai", script);
    // No file may be larger than 20 kB; the weights are 40 kB.
    let (code, said) = run_with_small_files(&folder, 40);
    assert_eq!(code, Some(1), "{said}");
    for piece in [
        "warning: the checkpoint at step 2 could not be written",
        "error: loop: the checkpoint at step 3 could not be written",
        "there is none yet",
        "run it again with --resume o",
    ] {
        assert!(said.contains(piece), "{piece}: {said}");
    }
    assert_eq!(folder.text("o/metrics.jsonl"), "{\"note\":\"after\"}\n");
    let run_file = folder.json("o/run.json");
    assert_eq!(run_file["state"], "failed");
    assert!(run_file["error"].as_str().unwrap().contains("the checkpoint at step 3 could not"), "{run_file}");
    // There is room again.
    folder.run_with(script, &["--out", "o"]).succeeds().says(&["restarted from the first step"]);
    assert_eq!(folder.names("o/checkpoints/loop"), ["step-00000002", "step-00000003"]);
}

/// Runs a recipe with a limit on the size of files, in blocks of 512 bytes; its exit code, and what it said.
fn run_with_small_files(folder: &Folder, blocks: u32) -> (Option<i32>, String) {
    let nepa = env!("CARGO_BIN_EXE_nepa");
    let line = format!("ulimit -f {blocks}; exec {nepa} run recipe.rhai --device cpu --threads 1 --out o");
    let output = std::process::Command::new("sh").args(["-c", &line]).current_dir(folder.path("")).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_cannot_be_written_at_the_end_is_no_success() {
    let folder = Folder::new();
    // A loop that does not call `finish`.
    let script = "let saver = run::checkpoints(\"loop\", #{ model: nn::linear(100, 100) }, #{});
                  saver.resume(#{}, []); saver.due(2); saver.save(2, #{});";
    folder.write("recipe.rhai", script);
    let (code, said) = run_with_small_files(&folder, 40);
    assert!(code == Some(1) && said.contains("error: loop: the checkpoint at step 2 could not be written"), "{said}");
    assert_eq!(folder.json("o/run.json")["state"], "failed");

    let folder = Folder::new();
    folder.write(
        "recipe.rhai",
        "for i in 0..400 { run::log(#{ step: i, text: \"0123456789012345678901234567890123456789\" }); }",
    );
    let (code, said) = run_with_small_files(&folder, 16);
    assert!(code == Some(1) && said.contains("lines of o/metrics.jsonl could not be written"), "{said}");
    assert_eq!(folder.json("o/run.json")["state"], "failed");
    folder.nepa(&["run", "recipe.rhai", "--device", "cpu", "--out", "o"]).succeeds();
    assert_eq!(folder.text("o/metrics.jsonl").lines().count(), 400);
}

#[test]
fn resume_finds_the_run_or_says_what_is_there() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "print(param(\"x\", 1)); run::log(#{ a: 1 }); throw \"stopped\";");
    folder.nepa(&["run", "recipe.rhai", "--set", "x=5", "--seed", "4"]).fails(1);
    let run = format!("runs/{}", folder.names("runs")[0]);
    // The newest run of the recipe; with what it was given.
    let said = folder.nepa(&["run", "recipe.rhai", "--resume"]);
    said.fails(1).prints(&["5"]).says(&[&run, "restarted from the first step", "seed 4"]);
    folder.nepa(&["run", "--resume", &run, "--set", "x=6"]).fails(1).prints(&["6"]);
    assert_eq!(folder.names("runs").len(), 1);

    folder.write("other.rhai", "print(1);");
    folder.nepa(&["run", "other.rhai", "--resume"]).fails(1).says(&["no run of other.rhai in runs/", "--resume DIR"]);
    folder
        .nepa(&["run", "other.rhai", "--resume", &run])
        .fails(1)
        .says(&["already holds a run of recipe.rhai", "--out"]);
    let typo = run.replace("recipe-", "recipf-");
    folder.nepa(&["run", "recipe.rhai", "--resume", &typo]).fails(1).says(&[
        "holds no run to resume",
        "did you mean",
        &run,
    ]);
    folder.nepa(&["run", "recipe.rhai", "--resume", &run, "--out", "o"]).fails(1).says(&["different directories"]);
    assert_eq!(folder.names(""), ["other.rhai", "recipe.rhai", "runs"]);
}

#[test]
fn micro_batches_give_what_the_whole_batch_gives() {
    let script = r#"
        import "std/pretrain" as pretrain;
        let images = data::idx(param("data", ()), "test").take(240);
        let models = [];
        for accumulate in [1, 2, 3, 5] {
            seed(1);
            let model = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 3,
                num_attention_heads: 2, layerscale_value: 0.5, drop_path_prob: 0.5, pos_embed_rescale: 2.0, pos_embed_jitter: 1.1 });
            let result = pretrain::fit(model, images, #{ epochs: 2, batch: 24, lr: 1e-3, warmup: 0.0, accumulate: accumulate });
            models.push(result.ema.state_dict() + model.state_dict());
        }
        for other in 1..4 {
            let worst = 0.0;
            for name in models[0].keys() { worst = max(worst, (models[0][name] - models[other][name]).abs().max().item()); }
            print(worst);
        }
    "#;
    let data = format!("data={}", fashion());
    for worst in Folder::new().run_with(script, &["--set", &data]).numbers() {
        // 20 steps of 1e-3; rounding alone.
        assert!(worst[0] < 2e-5, "{worst:?}");
    }
}

#[test]
fn a_loss_that_is_not_finite_names_step_images_and_checkpoint_or_is_left_out() {
    let (folder, data) = folder();
    let script = r#"
        import "std/pretrain" as pretrain;
        let images = data::idx(param("data", ()), "test").take(64);
        let model = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2 });
        let calls = #{ n: 0 };
        pretrain::fit(model, images, #{ epochs: 3, batch: 16, log_every: 1, save_every: 2, skip_nonfinite: param("skip", 0),
            loss: |model, batch| { calls.n += 1; model.forward(batch.images).mean() * (if calls.n in [5, 8] { 0.0 / 0.0 } else { 1.0 }) } });
        print(model.named_parameters().values().all(|p| p.is_finite()));
    "#;
    folder.write("recipe.rhai", script);
    let said = run(&folder, &data, "o", &[]);
    said.fails(1).says(&[
        "diverged at step 5",
        "the last checkpoint is o/checkpoints/pretrain/step-00000004",
        "the batch holds",
    ]);
    let listed = folder.text("o/nonfinite-pretrain-step-5.txt");
    assert_eq!(listed.lines().count(), 16, "{listed}");
    let said = run(&folder, &data, "one", &["--set", "skip=1"]);
    said.fails(1).says(&["skipping the step (1 of at most 1)", "diverged at step 8"]);
    run(&folder, &data, "two", &["--set", "skip=2"])
        .succeeds()
        .says(&["skipping the step (2 of at most 2)"])
        .prints(&["true"]);
}

/// Fine-tuning once applied such a gradient, and noticed it when the next line was logged.
#[test]
fn a_gradient_that_is_not_finite_never_reaches_the_weights_of_a_classifier() {
    let (folder, data) = folder();
    let script = r#"
        import "std/finetune" as finetune;
        let images = data::idx(param("data", ()), "test").take(64);
        let model = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_labels: 10 });
        let calls = #{ n: 0 };
        let spoil = |batch| { calls.n += 1; if calls.n == 5 { batch.images * (0.0 / 0.0) } else { batch.images } };
        let result = finetune::fit(model, images, #{ epochs: 3, batch: 16, save_every: 2, skip_nonfinite: param("skip", 0),
            transforms: [transform::normalize(0.5, 0.5), spoil] });
        for weights in [model.named_parameters(), result.ema.state_dict()] { print(weights.values().all(|p| p.is_finite())); }
    "#;
    folder.write("recipe.rhai", script);
    run(&folder, &data, "o", &[]).fails(1).says(&[
        "finetune::fit: training diverged at step 5",
        "the last checkpoint is o/checkpoints/finetune/step-00000004",
    ]);
    assert_eq!(folder.text("o/nonfinite-finetune-step-5.txt").lines().count(), 16);
    let said = run(&folder, &data, "one", &["--set", "skip=1"]);
    said.succeeds().says(&["skipping the step (1 of at most 1)"]);
    assert_eq!(said.values(), [true, true]);
}

#[test]
fn a_checkpoint_with_a_tensor_that_is_not_finite_is_refused_and_the_earlier_ones_stay() {
    let folder = Folder::new();
    let script = r#"
        let model = nn::linear(2, 2);
        let checkpoints = run::checkpoints("loop", #{ model: model }, #{});
        checkpoints.resume(#{}, []);
        checkpoints.save(1, #{});
        let state = model.state_dict();
        state.bias = tensor([1.0, 0.0 / 0.0]);
        model.load_state_dict(state);
        checkpoints.save(2, #{});
    "#;
    folder.run_with(script, &["--out", "o"]).fails(1).says(&[
        "loop: no checkpoint at step 2: the tensor `bias` (raw) holds NaN or infinite values",
        "the last good one is o/checkpoints/loop/step-00000001 (step 1)",
        "checkpoints.save(2, #{});",
    ]);
    assert_eq!(names_in(&folder.path("o/checkpoints/loop")), ["step-00000001"]);
    assert_eq!(folder.json("o/run.json")["state"], "failed");
}

#[test]
fn a_checkpoint_is_two_model_folders_and_says_what_the_run_was_started_from() {
    let (folder, data) = folder();
    folder.write(
        "recipe.rhai",
        RECIPE.replace("run::log(#{ note: \"begins\" });", "checkpoint::load_into(model, param(\"from\", \"\"));"),
    );
    folder.write("first.rhai", RECIPE);
    let first = ["run", "first.rhai", "--threads", "1", "--set", &data, "--out", "first", "--set", "epochs=1"];
    folder.nepa(&first).succeeds();
    let from = "first/checkpoints/pretrain/step-00000005/model_ema";
    let set = format!("from={from}");
    run(&folder, &data, "o", &["--set", &set, "--set", "epochs=1", "--set", "finetune_epochs=1"]).succeeds();
    let raw = folder.json("o/checkpoints/pretrain/step-00000005/model_raw/provenance.json");
    let ema = folder.json("o/checkpoints/pretrain/step-00000005/model_ema/provenance.json");
    assert_eq!((&raw["weights"], &ema["weights"], &raw["step"]), (&"raw".into(), &"ema".into(), &5.into()));
    assert_eq!((&ema["started_from"][0]["path"], &ema["started_from"][0]["weights"]), (&from.into(), &"ema".into()));
    folder.nepa(&["inspect", from]).succeeds().prints(&["weights", "ema"]);
    folder.nepa(&["inspect", "o"]).succeeds().prints(&["checkpoint: o/checkpoints/pretrain/step-00000005"]);
    let load = format!("print(checkpoint::load(\"{from}\").config.hidden_size);");
    folder.run(&load).succeeds().prints(&["16"]);

    // One value of the weights that is another.
    let weights = format!("{from}/model.safetensors");
    let mut bytes = folder.read(&weights);
    *bytes.last_mut().unwrap() ^= 1;
    folder.write(&weights, bytes);
    folder.run(&load).fails(1).says(&[&weights, "is damaged", "CRC-32"]);
}

#[test]
fn a_loop_by_hand_resumes_in_the_middle_of_an_epoch_as_if_it_had_not_been_interrupted() {
    let folder = Folder::new();
    let example = crate::common::repository("examples/resumable_loop.rhai").display().to_string();
    let run = |out: &str, steps: &str| folder.nepa(&["run", &example, "--threads", "1", "--out", out, "--set", steps]);
    let whole = run("whole", "steps=230");
    whole.succeeds().prints(&["after 230 steps"]);
    // 187 steps an epoch: stopped within the first one, at its end, and within the second.
    for steps in ["steps=61", "steps=187", "steps=200", "steps=230"] {
        run("parts", steps).succeeds();
    }
    let last = |out: &str| folder.read(&format!("{out}/checkpoints/loop/step-00000230/model_raw/model.safetensors"));
    assert_eq!(last("whole"), last("parts"));
    assert_eq!(folder.text("whole/metrics.jsonl"), folder.text("parts/metrics.jsonl"));
    let said = folder.nepa(&["run", &example, "--out", "parts", "--set", "steps=230", "--set", "lr=0.1"]);
    said.fails(1).says(&["lr: was 0.001, now 0.1", "these may change: steps"]);
}
