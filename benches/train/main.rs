//! Seconds that a pretraining step takes, part by part, beside the PyTorch reference.
//!
//!     cargo xtask bench train [--model base|quickstart|cifar10] [--reference DIR --python PYTHON [--compiled]]
//!
//! Ours and the reference are separate processes that take one step each in turns, on the same threads, batch and
//! configuration; medians of the rounds count. Where other programs run too, the processor time tells more. README.md
//! in this folder says what is timed, and how to get the peer; `-- --help` lists the options.

#[path = "../common/arguments.rs"]
mod arguments;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/models.rs"]
mod models;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/sides.rs"]
mod sides;

use clap::Parser;
use models::Model;
use nepa::device;
use nepa::error::Result;
use nepa::ffi::{self, Autocast};
use nepa::loss::next_embedding;
use nepa::nn::{Architecture, CostOptions, VitNepa};
use nepa::optim::{AdamwOptions, Ema, Optimizer, clip_grad_norm};
use sides::{Comparison, Setup, answer};
use std::process::ExitCode;
use tch::{Kind, Tensor};

const PARTS: &[&str] = &["forward", "backward", "optimizer", "ema"];

/// Seconds of a pretraining step beside the PyTorch reference (benches/train/README.md)
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench train")]
struct Options {
    #[command(flatten)]
    setup: Setup,
}

fn main() -> ExitCode {
    arguments::main(|options: Options| {
        let setup = &options.setup;
        setup.apply()?;
        let (config, usual) = (setup.config(), if setup.model == Model::Base { 8 } else { 128 });
        let batch = setup.batch.unwrap_or(usual);
        let architecture = Architecture::new(&config)?;
        if setup.side {
            return side(&architecture, setup, batch);
        }
        let cost = architecture.cost(&CostOptions { batch: 1, ..Default::default() });
        let comparison = Comparison {
            setup,
            config: &config,
            batch,
            turn: "step",
            parts: PARTS,
            images_per_turn: batch,
            flops_per_image: cost.flops_per_step,
            arguments: Vec::new(),
        };
        setup.dtype.iter().try_for_each(|dtype| comparison.print(*dtype))
    })
}

/// Our side: a step for every line of input.
fn side(architecture: &Architecture, setup: &Setup, batch: i64) -> Result<()> {
    let model = VitNepa::new(architecture, Default::default())?;
    let mut adamw = Optimizer::new(&model, &AdamwOptions::default())?;
    let lrs = vec![1e-3; adamw.groups().len()];
    let mut ema = Ema::new(&model, 0.9999, Default::default())?;
    let size = architecture.image_size;
    let images = Tensor::f_randn([batch, architecture.num_channels, size, size], (Kind::Float, device::current()))?;
    let kind = setup.dtype[0].kind();
    answer(&model, |laps| {
        let loss = {
            let _autocast = Autocast::enter(kind)?;
            let out = model.encode(&images, None, &Default::default())?;
            next_embedding(&out.last_hidden_state, &out.input_embedding, &Default::default())?
        };
        laps.lap();
        ffi::backward(&loss)?;
        laps.lap();
        let _ = clip_grad_norm(&model, 1.0)?;
        adamw.step(&lrs, None)?;
        laps.lap();
        ema.update(None)?;
        laps.lap();
        Ok(())
    })
}
