//! Runs on a simulated GPU that fails at a chosen moment, and what must be true then.

use super::simulated_cuda::{Report, Setting, folder_with, simulated};
use super::{Folder, Outcome, Said, assert_checkpoints_whole, outcome};
use std::fmt::{Display, Formatter, Result};

/// Pretraining in which some steps have a NaN, that is logged at its end only.
pub const NOT_FINITE: &str = r#"
import "std/pretrain" as pretrain;
let calls = #{ n: 0 };
let spoil = |batch| {
    calls.n += 1;
    if calls.n in [1, 4, 5, 9] { batch.images = batch.images * (0.0 / 0.0); }
    batch
};
let model = nn::vit_nepa(#{
    image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 2,
    num_attention_heads: 2, intermediate_size: 16,
});
let kind = param("optimizer", "adamw");
let result = pretrain::fit(model, data::synthetic(#{ len: 24, size: 8, seed: 1 }), #{
    epochs: 2, batch: 4, log_every: 100, skip_nonfinite: param("skip", 4), transforms: [spoil],
    optimizer: kind, ema: 0.5, ema_warmup: true, lr: 1e-3,
});
checkpoint::save(model, run::path("model"));
result.ema.apply(|| checkpoint::save(model, run::path("averaged"), #{ weights: "ema" }));
print(result.ema.updates);
"#;

/// Pretraining, fine-tuning and evaluation with checkpoints at every second step, in seconds.
pub const LOOPS: &str = r#"
import "std/pretrain" as pretrain;
import "std/finetune" as finetune;
import "std/evaluate" as evaluate;
let images = data::synthetic(#{ len: 12, size: 8, classes: 2, seed: 1 });
let model = nn::vit_nepa(#{
    image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 2, num_attention_heads: 2,
    intermediate_size: 16, drop_path_prob: 0.2,
});
let often = #{
    batch: 4, log_every: 1, save_every: 2, keep: 1, accumulate: 2, clip_grad_norm: 1.0,
    transforms: [transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)],
};
pretrain::fit(model, images, often + #{ steps: 4 });
let classifier = finetune::classifier(model, 2, #{});
finetune::fit(classifier, images, often + #{ epochs: 2, evaluate: #{ images: images, best: "best" } });
checkpoint::save(classifier, run::path("model"));
let scores = evaluate::classify(classifier, images, #{ predictions: run::path("predictions.csv") });
run::write("scores.txt", `${scores.top1} ${scores.loss} ${randn([1]).item()}`);
"#;

/// Runs LOOPS, which must be in recipe.rhai, on a simulated GPU.
pub fn loops(folder: &Folder, out: &str, settings: &[Setting<'_>]) -> Said {
    simulated(folder, settings, &["run", "recipe.rhai", "--device", "cuda", "--threads", "1", "--out", out])
}

/// What every error about a GPU's memory says.
pub const OUT_OF_MEMORY: [&str; 5] =
    ["error: ", "CUDA out of memory. Tried to allocate", "hint: less memory", "`micro_batch`", "recompute: true"];

/// What every error about a lost GPU says.
pub const LOST: [&str; 4] = [
    "CUDA error: an illegal memory access was encountered",
    "\nhint: the process has lost its GPU; `nvidia-smi`",
    "`Xid`",
    "goes on from the last checkpoint",
];

/// How the GPU fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An allocation fails, and all after it.
    OutOfMemory,
    /// It is lost with a launch: every call after it fails.
    Lost,
}

/// A moment at which the GPU fails: after so many allocations, or launches.
#[derive(Debug, Clone, Copy)]
pub struct Moment(pub Fault, pub i64);

impl Display for Moment {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} {}", if self.0 == Fault::Lost { "launch" } else { "allocation" }, self.1)
    }
}

/// LOOPS on a GPU that does not fail.
pub struct Undisturbed {
    whole: Outcome,
    report: Report,
}

impl Undisturbed {
    pub fn new() -> Self {
        let folder = folder_with(LOOPS);
        loops(&folder, "out", &[("NEPA_SIMULATED_CUDA_REPORT", "report.json")]).succeeds();
        Undisturbed { whole: outcome(&folder.path("out")), report: Report::read(&folder, "report.json") }
    }

    /// Every moment of a fault, in order.
    pub fn moments(&self, fault: Fault) -> Vec<Moment> {
        let all = match fault {
            Fault::OutOfMemory => self.report.allocations(),
            Fault::Lost => self.report.count("launches"),
        };
        (0..all).map(|n| Moment(fault, n)).collect()
    }

    /// Lets the GPU fail: that is told with what helps, checkpoints stay whole, and the next run ends as one that was not
    /// disturbed. Whether that one had a checkpoint to go on from.
    pub fn strike(&self, Moment(fault, n): Moment) -> bool {
        let (variable, words) = match fault {
            Fault::OutOfMemory => ("NEPA_SIMULATED_CUDA_ALLOCATIONS", &OUT_OF_MEMORY[..]),
            Fault::Lost => ("NEPA_SIMULATED_CUDA_LOST", &LOST[..]),
        };
        let folder = folder_with(LOOPS);
        let said = loops(&folder, "out", &[(variable, &n.to_string())]);
        said.fails(1).says(words);
        let errors = said.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert!(errors == 1 && !said.stderr.contains("Search for `cuda"), "not told in one line: {said}");
        assert_checkpoints_whole(&folder.path("out"));
        let said = loops(&folder, "out", &[]);
        said.succeeds();
        self.whole.assert_same(&folder.path("out"));
        said.stderr.contains("resumed from step")
    }
}

/// Strikes at moments that are spread over model, steps, checkpoints and evaluations, the last one included.
pub fn at_some_moments(fault: Fault) {
    const MOMENTS: usize = 5;
    let whole = Undisturbed::new();
    let all = whole.moments(fault);
    let chosen = (1..=MOMENTS).map(|moment| all[(all.len() * moment).div_ceil(MOMENTS) - 1]);
    let resumed = chosen.filter(|moment| whole.strike(*moment)).count();
    assert!(resumed >= MOMENTS / 2, "only {resumed} of {MOMENTS} had a checkpoint to resume from");
}
