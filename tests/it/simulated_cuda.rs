//! Runs on CUDA, which `tests/simulated-cuda` simulates: the same bits as on a CPU, what a user is told who has no GPU,
//! a broken library or too little memory, and how often the host launches and waits.

use crate::common::gpu_faults::{self, Fault, LOOPS, NOT_FINITE, OUT_OF_MEMORY, loops};
use crate::common::simulated_cuda::{
    CLASSIFIER, CUDA, Report, Setting, environment, folder_with, link_libtorch, loaded_from, simulated,
};
use crate::common::*;

/// What LOOPS leaves on the CPU.
fn loops_on_cpu() -> Outcome {
    let folder = Folder::on_cpu();
    folder.run_with(LOOPS, &["--out", "out"]).succeeds();
    outcome(&folder.path("out"))
}

#[test]
fn training_and_evaluation_are_those_of_the_cpu_bit_for_bit() {
    let folder = folder_with(LOOPS);
    let said = loops(&folder, "out", &[("NEPA_SIMULATED_CUDA_REPORT", "report.json")]);
    said.succeeds().says(&["recipe.rhai on cuda:0, 1 thread"]);
    // libtorch warns of calls that it would like otherwise.
    assert!(!said.stderr.contains("Warning:"), "{said}");
    loops_on_cpu().assert_same(&folder.path("out"));

    let report = Report::read(&folder, "report.json");
    for phase in ["forward", "backward", "update"] {
        assert!(report.0["phases"][phase]["launches"].as_i64() > Some(0), "{phase}: {}", report.0);
    }
    assert_eq!(report.0["devices"][0]["live_bytes"], 0, "memory is never freed");
    // Numbers that are tensors of the CPU cost a copy with each launch; a list with one, a launch for each tensor.
    assert_eq!(report.0["notes"], serde_json::json!({}), "{}", report.0);
}

#[test]
fn a_gpu_that_is_not_there_is_told() {
    let folder = folder_with("print(device());");
    let run = |devices: &str, more: &[&str]| {
        let args = [&["run", "recipe.rhai"], more].concat();
        simulated(&folder, &[("NEPA_SIMULATED_CUDA_DEVICES", devices)], &args)
    };
    let hint = "hint: check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --device cpu";
    let none = ["device `cuda` was asked for, but libtorch sees 0 CUDA device(s)", hint];
    run("0", &["--device", "cuda"]).fails(1).says(&none);
    run("0", &[]).succeeds().prints(&["cpu\n"]);
    run("2", &[]).succeeds().prints(&["cuda:0\n"]);
    run("2", &["--device", "cuda:1"]).succeeds().prints(&["cuda:1\n"]);
    let two = ["device `cuda:2` was asked for, but libtorch sees 2 CUDA device(s)", hint];
    run("2", &["--device", "cuda:2"]).fails(1).says(&two);
}

#[test]
fn the_second_of_two_gpus_trains_alone() {
    let folder = folder_with(LOOPS);
    let settings = [("NEPA_SIMULATED_CUDA_DEVICES", "2"), ("NEPA_SIMULATED_CUDA_REPORT", "report.json")];
    let args = ["run", "recipe.rhai", "--device", "cuda:1", "--threads", "1", "--out", "out"];
    simulated(&folder, &settings, &args).succeeds().says(&["on cuda:1"]);
    loops_on_cpu().assert_same(&folder.path("out"));
    assert_eq!(folder.json("report.json")["devices"][0]["peak_bytes"], 0, "the first GPU was used too");
}

#[test]
fn a_cuda_library_that_cannot_be_opened_is_told() {
    let folder = folder_with("print(device());");
    let libraries = folder.path("torch/lib");
    link_libtorch(&libraries);
    let (name, value) = loaded_from(&libraries);
    let run = |more: &[&str]| folder.nepa_with(&[(name, &value)], &[&["run", "recipe.rhai"], more].concat());

    run(&["--device", "cuda"]).fails(1).says(&["this libtorch has no CUDA", "cargo xtask setup --cuda"]);
    let said = run(&[]);
    said.succeeds().prints(&["cpu\n"]);
    assert!(!said.stderr.contains("warning:"), "{said}");

    folder.write(&format!("torch/lib/{CUDA}"), "not a library");
    let reason = ["libtorch's CUDA library cannot be opened: ", CUDA, "hint: `cargo xtask setup --cuda`"];
    run(&["--device", "cuda"]).fails(1).says(&reason).says(&["device `cuda` was asked for", "or use --device cpu"]);
    run(&[]).succeeds().prints(&["cpu\n"]).says(&reason).says(&["warning: the run is on the CPU"]);
    // Several processes might not agree.
    run(&["--nproc", "2"]).fails(1).says(&reason).says(&["--device cpu runs all processes on the CPU"]);
    let said = run(&["--device", "cpu"]);
    said.succeeds();
    assert!(!said.stderr.contains("warning:"), "{said}");
}

#[test]
fn memory_that_runs_out_at_any_moment_loses_nothing() {
    gpu_faults::at_some_moments(Fault::OutOfMemory);
}

#[test]
fn scripts_learn_of_the_memory() {
    let folder =
        folder_with("let x = zeros([1000, 1000]); x = (); print(gpu_memory().to_json()); print(device_count());");
    let settings = [("NEPA_SIMULATED_CUDA_BYTES", "9000000"), ("NEPA_SIMULATED_CUDA_DEVICES", "2")];
    let said = simulated(&folder, &settings, &["run", "recipe.rhai", "--device", "cuda:1"]);
    let values = said.succeeds().values();
    // Tensors take whole blocks of 512 bytes.
    let taken = 4_000_256;
    let memory = serde_json::json!({ "allocated": taken, "free": 9_000_000, "reserved": taken, "total": 9_000_000 });
    assert_eq!(values, [memory, 2.into()]);
    let said = Folder::on_cpu().run("print(gpu_memory()); print(device_count());");
    assert_eq!(said.succeeds().stdout, "\n0\n");
}

#[test]
fn memory_of_the_size_that_is_needed_is_enough() {
    let folder = folder_with(LOOPS);
    loops(&folder, "a", &[("NEPA_SIMULATED_CUDA_REPORT", "report.json")]).succeeds();
    let peak = Report::read(&folder, "report.json").peak();
    loops(&folder, "b", &[("NEPA_SIMULATED_CUDA_BYTES", &peak.to_string())]).succeeds();
    let said = loops(&folder, "c", &[("NEPA_SIMULATED_CUDA_BYTES", &(peak - 1).to_string())]);
    said.fails(1).says(&OUT_OF_MEMORY).says(&["dtype: \"bfloat16\"", "model.cost"]);
}

#[test]
fn memory_that_runs_out_while_evaluating_is_told() {
    let folder = folder_with(&format!(
        "import \"std/evaluate\" as evaluate;\n{CLASSIFIER};\n\
         let images = data::synthetic(#{{ len: 64, size: 28, classes: 2 }});\n\
         evaluate::classify(m, images, #{{ batch: param(\"batch\", 64) }});\n"
    ));
    let run = |bytes: &str, batch: &str| {
        let settings = [("NEPA_SIMULATED_CUDA_BYTES", bytes), ("NEPA_SIMULATED_CUDA_REPORT", "report.json")];
        simulated(&folder, &settings, &["run", "recipe.rhai", "--device", "cuda", "--set", &format!("batch={batch}")])
    };
    run("100000000", "2").succeeds();
    let needed = Report::read(&folder, "report.json").peak().to_string();
    run(&needed, "64").fails(1).says(&OUT_OF_MEMORY).says(&["`batch` where nothing is trained", "recipe.rhai:4:"]);
    run(&needed, "2").succeeds();
}

#[test]
fn tensors_on_two_devices_are_named() {
    let run = |line: &str| {
        let folder =
            folder_with(&format!("let m = nn::vit_nepa({TINY});\nlet x = ones([2, 3, 8, 8]).to(\"cpu\");\n{line}"));
        simulated(&folder, &[], &["run", "recipe.rhai", "--device", "cuda"])
    };
    let hint = "hint: x.to(device()) moves a tensor to the device of the run";
    let said = run("m.forward(x);");
    said.fails(1).says(&["expected all tensors to be on the same device, found the input on CPU", "CUDA", hint]);
    assert!(!said.stderr.contains("MKLDNN"), "{said}");
    run("x + ones([2, 3, 8, 8]);").fails(1).says(&[
        "Expected all tensors to be on the same device",
        "cuda:0",
        "cpu",
        hint,
    ]);
    run("print((m.forward(x.to(device())).shape));").succeeds();
}

/// Counts of one step of training: the difference between long and short runs.
fn per_step<const N: usize>(recipe: &str, what: [&str; N]) -> [f64; N] {
    let folder = folder_with(recipe);
    let counts = ["2", "4"].map(|steps| {
        let set = format!("steps={steps}");
        let args = ["run", "recipe.rhai", "--device", "cuda", "--threads", "1", "--set", &set, "--out", steps];
        simulated(&folder, &[("NEPA_SIMULATED_CUDA_REPORT", "report.json")], &args).succeeds();
        let report = Report::read(&folder, "report.json");
        what.map(|what| report.count(what))
    });
    std::array::from_fn(|i| (counts[1][i] - counts[0][i]) as f64 / 2.0)
}

#[test]
fn launches_and_waits_of_a_step_stay_within_their_budget() {
    // As deep as the base model and with its options, which decide how many operators there are; in bfloat16. What a step
    // launched when this was written: 966, 3,495 (in 4 parts) and 988, of which 33 are for the statistics of a line of
    // metrics.jsonl, here one a step. In the recipe's 16 parts it is 13,595 with them.
    let begin = r#"
        import "std/pretrain" as pretrain;
        import "std/finetune" as finetune;
        let images = data::synthetic(#{ len: 64, size: 28, classes: 2, seed: 1 });
        let config = #{
            image_size: 28, patch_size: 14, hidden_size: 96, num_attention_heads: 12, intermediate_size: 192,
            qk_norm_affine: false, layerscale_value: 1e-5,
        };
        let options = #{
            batch: 16, steps: param("steps", 2), warmup: 0.0, log_every: 1, save_every: 100, dtype: "bfloat16",
            transforms: [
                transform::random_resized_crop(28), transform::random_horizontal_flip(), transform::normalize(0.5, 0.5),
            ],
        };
    "#;
    let model = "nn::vit_nepa(config + #{ pos_embed_rescale: 2.0 })";
    let pretraining = format!("{begin}pretrain::fit({model}, images, options);");
    let parts = format!("{begin}pretrain::fit({model}, images, options + #{{ accumulate: 4 }});");
    let finetuning = format!(
        "{begin}options.transforms += [transform::random_erasing(#{{ p: 0.25 }}), \
         transform::mixup(#{{ mixup_alpha: 0.8, cutmix_alpha: 1.0 }})];\n\
         let model = nn::vit_nepa(config + #{{ num_labels: 2, is_causal: false, drop_path_prob: 0.1 }});\n\
         finetune::fit(model, images, options + #{{ llrd: 0.65 }});"
    );
    // Uploads: the bytes of the images with labels, indices and all that was drawn for the batch; and drop path's masks.
    for (name, recipe, most, most_uploads) in [
        ("pretraining", pretraining, 1000.0, 1.0),
        ("pretraining in 4 parts", parts, 3500.0, 1.0),
        ("fine-tuning", finetuning, 1100.0, 2.0),
    ] {
        let [launches, waited, uploads] = per_step(&recipe, ["launches", "waits", "to_device"]);
        println!("{name}: {launches} launches, {waited} waits and {uploads} uploads in a step");
        assert!(launches <= most, "{name}: {launches} launches, at most {most}");
        assert!(uploads <= most_uploads, "{name}: {uploads} uploads, at most {most_uploads}");
        assert_eq!(waited, 0.0, "{name}: the host waits for the device");
    }
}

#[test]
fn what_is_drawn_for_a_batch_reaches_the_device_whether_it_is_little_or_much() {
    // Noise for a third of 32 images of 3 MB is more than a batch's memory has room for; none, or that of small ones, less.
    for (size, erasing) in [(512, 1.0), (512, 0.0), (32, 1.0)] {
        let recipe = format!(
            "let images = data::synthetic(#{{ len: 40, size: {size}, classes: 3, seed: 1 }});\n\
             let erasing = transform::random_erasing(#{{ p: {erasing}, min_area: 0.3, mode: \"pixel\" }});\n\
             let transforms = [transform::normalize(0.5, 0.5), erasing, transform::mixup(#{{}})];\n\
             for batch in data::loader(images, transforms, #{{ batch: 32, drop_last: false }}).epoch(0) {{\n\
                 print([batch.images, batch.targets, batch.indices].map(|t| t.to(\"cpu\").to(\"float64\").sum().item()));\n\
             }}"
        );
        let args = ["run", "recipe.rhai", "--threads", "1", "--device"];
        let folder = folder_with(&recipe);
        let on_cpu = folder.nepa(&[&args[..], &["cpu"]].concat());
        assert_eq!(on_cpu.succeeds().stdout.lines().count(), 2, "{on_cpu}");
        let on_gpu = simulated(&folder, &[], &[&args[..], &["cuda"]].concat());
        assert_eq!(on_gpu.succeeds().stdout, on_cpu.stdout, "{size}, {erasing}");
    }
}

#[test]
fn evaluation_waits_for_its_results_alone() {
    let begin = r#"
        import "std/evaluate" as evaluate;
        import "std/features" as features;
        let images = data::synthetic(#{ len: 8 * param("steps", 2), size: 28, classes: 2, seed: 1 });
        let config = #{
            image_size: 28, patch_size: 14, hidden_size: 32, num_attention_heads: 2, num_hidden_layers: 6,
        };
        let options = #{ batch: 8, on_bad: "skip" };
    "#;
    let classify = "evaluate::classify(nn::vit_nepa(config + #{ num_labels: 2, is_causal: false }), images, options);";
    let online = "features::online(nn::vit_nepa(config), images, options);";
    for (name, call) in [("classify", classify), ("kNN and probe", online)] {
        let [waited] = per_step(&format!("{begin}{call}"), ["waits"]);
        assert_eq!(waited, 0.0, "{name}: the host waits for each batch");
    }
    // What is not finite is still found out.
    let spoilt = format!(
        "{begin}let model = nn::vit_nepa(config + #{{ num_labels: 2, is_causal: false }});\n\
         for p in model.named_parameters().values() {{ p.copy_(p * (0.0 / 0.0)); }}\n\
         evaluate::classify(model, images, options);"
    );
    let said = simulated(&folder_with(&spoilt), &[], &["run", "recipe.rhai", "--device", "cuda"]);
    said.fails(1).says(&["gives NaN or infinite logits"]);
}

/// A GPU tells of a NaN when the host has gone on.
#[test]
fn steps_that_are_not_finite_change_nothing_though_the_host_hears_of_them_late() {
    // Lion has no kernel that asks, and waits.
    for optimizer in ["adamw", "sgd", "lion"] {
        let set = format!("optimizer={optimizer}");
        let cpu = Folder::on_cpu();
        cpu.run_with(NOT_FINITE, &["--threads", "1", "--set", &set, "--out", "out"]).succeeds().prints(&["8"]);
        let folder = folder_with(NOT_FINITE);
        let args = ["run", "recipe.rhai", "--device", "cuda", "--threads", "1", "--set", &set, "--out", "out"];
        let said = simulated(&folder, &[], &args);
        said.succeeds().prints(&["8"]).says(&["not finite at step 1: loss NaN", "not finite at step 9: loss NaN"]);
        outcome(&cpu.path("out")).assert_same(&folder.path("out"));
        let said = simulated(&folder, &[], &[&args[..8], &["--out", "stopped", "--set", "skip=2"]].concat());
        said.fails(1)
            .says(&["training diverged at step 5: loss NaN", "all 4 in stopped/nonfinite-pretrain-step-5.txt"]);
    }
}

#[test]
fn a_base_model_at_its_batch_takes_the_memory_that_cost_says_and_less_than_30_gb() {
    // A step of the recipe's model by hand: a loop would write checkpoints.
    let recipe = r#"
        let batch = 256;
        let model = nn::vit_nepa(#{ qk_norm_affine: false, layerscale_value: 1e-5 });
        let opt = optim::adamw(model, #{});
        let out = autocast("bfloat16", || model.encode(zeros([batch, 3, 224, 224])));
        loss::next_embedding(out.last_hidden_state, out.input_embedding, #{}).backward();
        optim::clip_grad_norm(model, 1.0);
        opt.step(1e-3);
        print(model.cost(#{ batch: batch, dtype: "bfloat16" }).memory.to_json());
    "#;
    let folder = folder_with(recipe);
    let settings = [("NEPA_SIMULATED_CUDA_DRY", "1"), ("NEPA_SIMULATED_CUDA_REPORT", "report.json")];
    let said = simulated(&folder, &settings, &["run", "recipe.rhai", "--device", "cuda", "--threads", "1"]);
    let estimate = &said.values()[0];
    let peak = Report::read(&folder, "report.json").peak() as f64;
    // The estimate counts averages too, which this step does not keep.
    let expected = estimate["total"].as_f64().unwrap() - estimate["ema"].as_f64().unwrap();
    println!("peak memory {:.1} GB, {:.3} of the estimate", peak / 1e9, peak / expected);
    assert!((0.95..1.05).contains(&(peak / expected)), "peak memory {peak} is not near the estimate {expected}");
    assert!(peak < 30e9, "peak memory {peak}");
}

/// Runs a test once more, in a process that takes the simulation for CUDA; how it ended. In that process gives nothing.
/// `test` is its name, as in `memory::a_step`.
pub fn in_a_process_with_cuda(test: &str, settings: &[Setting<'_>]) -> Option<std::process::Output> {
    const INSIDE: &str = "NEPA_TEST_INSIDE_SIMULATED_CUDA";
    if std::env::var_os(INSIDE).is_some() {
        assert_eq!(nepa::device::parse("cuda").unwrap(), tch::Device::Cuda(0));
        return None;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).envs(environment()).envs(settings.iter().copied()).env(INSIDE, "1");
    Some(command.output().unwrap())
}

#[test]
fn the_host_cannot_touch_device_memory() {
    use std::os::unix::process::ExitStatusExt as _;
    match in_a_process_with_cuda("simulated_cuda::the_host_cannot_touch_device_memory", &[]) {
        Some(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{text}");
            assert!(text.contains("simulated CUDA: the host touched device memory at 0x"), "{text}");
        }
        None => {
            let x = tch::Tensor::ones([4], (tch::Kind::Float, tch::Device::Cuda(0)));
            // SAFETY: not safe at all, but what reads it ends here.
            println!("{}", unsafe { x.data_ptr().cast::<f32>().read_volatile() });
        }
    }
}

#[test]
fn a_host_that_does_not_wait_for_a_copy_is_found_out() {
    use std::os::unix::process::ExitStatusExt as _;
    match in_a_process_with_cuda("simulated_cuda::a_host_that_does_not_wait_for_a_copy_is_found_out", &[]) {
        Some(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
            assert!(text.contains("the host changed memory that was being copied to the device: 16 bytes"), "{text}");
        }
        None => {
            let copied = |x: &tch::Tensor, device| x.internal_to_copy((tch::Kind::Uint8, device), true);
            let mut host =
                nepa::ffi::pinned_like(&tch::Tensor::zeros([16], (tch::Kind::Uint8, tch::Device::Cpu))).unwrap();
            let _ = host.fill_(1);
            let there = copied(&host, tch::Device::Cuda(0));
            let back = copied(&there, tch::Device::Cpu);
            assert_eq!(back.sum(tch::Kind::Int64).int64_value(&[]), 16 * 255, "read before the host has waited");
            tch::Cuda::synchronize(0);
            assert_eq!(back.sum(tch::Kind::Int64).int64_value(&[]), 16);
            drop(copied(&host, tch::Device::Cuda(0)));
            let _ = host.fill_(2);
            tch::Cuda::synchronize(0);
        }
    }
}

#[test]
fn new_memory_is_nan_and_gradients_are_those_of_the_cpu() {
    if let Some(output) =
        in_a_process_with_cuda("simulated_cuda::new_memory_is_nan_and_gradients_are_those_of_the_cpu", &[])
    {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let gpu = (tch::Kind::Float, tch::Device::Cuda(0));
    let fresh = tch::Tensor::empty([1000], gpu);
    assert!(bool::try_from(fresh.isnan().all()).unwrap());

    let gradient = |device| {
        let x = tch::Tensor::arange(12, (tch::Kind::Float, device)).view([4, 3]);
        let weight = (tch::Tensor::ones([3, 3], (tch::Kind::Float, device)) * 0.1).set_requires_grad(true);
        x.linear::<&tch::Tensor>(&weight, None).gelu("none").square().sum(tch::Kind::Float).backward();
        weight.grad().to_device(tch::Device::Cpu)
    };
    assert_eq!(gradient(tch::Device::Cuda(0)), gradient(tch::Device::Cpu));

    // Views of one tensor stay views of one tensor; what is resized moves.
    let x = tch::Tensor::zeros([4, 4], gpu);
    let _ = x.narrow(1, 1, 2).fill_(1.0);
    assert_eq!(x.sum(tch::Kind::Float).double_value(&[]), 8.0);
    let out = tch::Tensor::empty([0], gpu);
    assert_eq!(
        Vec::<f32>::try_from(x.mm_out(&out, &x).select(0, 0).to_device(tch::Device::Cpu)).unwrap(),
        [0.0, 2.0, 2.0, 0.0]
    );
}
