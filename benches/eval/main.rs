//! Images a second without gradients: a classifier or frozen features, beside the PyTorch reference.
//!
//!     cargo xtask bench eval [--task classify|features] [--images DIR] [--reference DIR --python PYTHON]
//!
//! As in benches/train, ours and the reference are separate processes that take turns: a batch of random numbers each, or
//! with --images a pass over pictures, from their files. README.md in this folder says what is timed; `-- --help` lists
//! the options.

#[path = "../common/arguments.rs"]
mod arguments;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/models.rs"]
mod models;
#[path = "../common/pictures.rs"]
mod pictures;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/sides.rs"]
mod sides;

use clap::{Parser, ValueEnum};
use models::Model;
use nepa::bail_hint;
use nepa::data::image::Interpolation;
use nepa::data::loader::{Loader, LoaderOptions};
use nepa::data::pipeline::Pipeline;
use nepa::data::source;
use nepa::data::transform::{CenterCrop, Normalize, Resize, ResizeTo};
use nepa::device;
use nepa::error::{Context as _, Result};
use nepa::ffi::Autocast;
use nepa::nn::{self, Architecture, CostOptions, VitNepa, VitNepaConfig};
use pictures::Pictures;
use sides::{Comparison, Setup, answer};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tch::{Kind, Tensor};

const BATCH: i64 = 64;

/// Images a second without gradients beside the PyTorch reference (benches/eval/README.md)
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench eval")]
struct Options {
    #[command(flatten)]
    setup: Setup,
    /// What is computed
    #[arg(long, value_enum, default_value_t = Task::Classify)]
    task: Task,
    /// A folder of pictures, in any folders, to measure from their files on
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// How many of the pictures are a turn; whole batches
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    most: u32,
}

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Task {
    /// Logits of a fine-tuned classifier: bidirectional attention, the mean of the patch tokens, a norm and a linear layer
    Classify,
    /// The mean of the pretrained encoder's patch tokens
    Features,
}

impl Options {
    /// The model's configuration for the task.
    fn config(&self) -> VitNepaConfig {
        let config = self.setup.config();
        match self.task {
            Task::Features => config,
            // As the published models are fine-tuned.
            Task::Classify => {
                let num_labels = if self.setup.model == Model::Base { 1000 } else { 10 };
                VitNepaConfig { num_labels, is_causal: false, qk_norm_affine: true, ..config }
            }
        }
    }
}

fn main() -> ExitCode {
    arguments::main(|options: Options| {
        let setup = &options.setup;
        setup.apply()?;
        let (config, batch) = (options.config(), setup.batch.unwrap_or(BATCH));
        if options.images.is_some() && config.num_channels != 3 {
            bail_hint!(
                "--images: the model {} takes grey images, expected one of colour images", setup.model.name();
                "--model base or --model cifar10"
            );
        }
        let architecture = Architecture::new(&config)?;
        if setup.side {
            return side(&architecture, &options, batch);
        }
        let task = options.task.to_possible_value().expect("no task is hidden");
        let mut arguments = vec!["--task".to_string(), task.get_name().to_string()];
        let most = (options.most as usize).next_multiple_of(batch as usize);
        let pictures = options.images.as_deref().map(|folder| Pictures::of(folder, most)).transpose()?;
        let mut images_per_turn = batch;
        if let Some(pictures) = &pictures {
            images_per_turn = pictures.count as i64;
            arguments.extend(["--images".to_string(), pictures.folder().display().to_string()]);
        }
        let comparison = Comparison {
            setup,
            config: &config,
            batch,
            turn: if pictures.is_some() { "pass" } else { "batch" },
            parts: &[],
            images_per_turn,
            flops_per_image: architecture.cost(&CostOptions::default()).flops_per_image,
            arguments,
        };
        setup.dtype.iter().try_for_each(|dtype| comparison.print(*dtype))
    })
}

/// Our side: a batch, or a pass over pictures, for every line of input.
fn side(architecture: &Architecture, options: &Options, batch: i64) -> Result<()> {
    let model = VitNepa::new(architecture, Default::default())?;
    nn::set_training(&model, false);
    let kind = options.setup.dtype[0].kind();
    let forward = |images: &Tensor| -> Result<Tensor> {
        let _no_graph = tch::no_grad_guard();
        let _autocast = Autocast::enter(kind)?;
        let out = model.encode(images, None, &Default::default())?;
        if let Some(logits) = out.logits {
            return Ok(logits);
        }
        let patches = out.last_hidden_state.f_narrow(1, 1, architecture.tokens - 1)?;
        Ok(patches.f_mean_dim([1i64].as_slice(), false, None)?)
    };
    let Some(folder) = &options.images else {
        let size = architecture.image_size;
        let images = Tensor::f_randn([batch, architecture.num_channels, size, size], (Kind::Float, device::current()))?;
        return answer(&model, |laps| {
            let _ = forward(&images)?;
            laps.lap();
            Ok(())
        });
    };
    let loader = loader(folder, architecture.image_size, batch as usize)?;
    answer(&model, |laps| {
        let mut epoch = loader.epoch(0, 0)?;
        while let Some(batch) = epoch.next_batch()? {
            let _ = forward(&batch.images.numbers()?)?;
        }
        laps.lap();
        Ok(())
    })
}

/// The pictures as evaluation takes them: the shorter side 8 / 7 of the model's images, of which the centre.
fn loader(folder: &Path, size: i64, batch: usize) -> Result<Loader> {
    let images = source::open(folder.to_str().context("a temporary folder has a plain name")?, None)?;
    let resize = Resize { to: ResizeTo::Shorter(size as usize * 8 / 7), how: Interpolation::Bicubic.into() };
    let crop = CenterCrop { height: size as usize, width: size as usize };
    let normalize = Normalize::new(vec![0.5], vec![0.5])?;
    let pipeline = Pipeline::new("bench", &[Arc::new(resize), Arc::new(crop), Arc::new(normalize)], false)?;
    let options = LoaderOptions { batch, shuffle: false, ..Default::default() };
    Loader::new(images, pipeline, &options)
}
