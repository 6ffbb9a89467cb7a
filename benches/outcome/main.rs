//! Whether training here comes to the same accuracy as training with the PyTorch reference, and how long both take.
//!
//!     cargo xtask bench outcome -- --reference DIR --python PYTHON
//!
//! Both sides pretrain and fine-tune the same small model on the same pictures with the same settings, several seeds each,
//! and the weights of both are judged in the same way. README.md in this folder says what is compared.

#[path = "../common/arguments.rs"]
mod arguments;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/models.rs"]
mod models;
mod pictures;
mod reference;

use clap::Parser;
use figures::{load, median};
use models::Model;
use nepa::error::{Context as _, Result, bail};
use nepa::nn::VitNepaConfig;
use reference::{Reference, Training};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// The accuracy and the time of training, beside the PyTorch reference (benches/outcome/README.md)
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench outcome")]
struct Options {
    /// A checkout of the PyTorch reference
    #[arg(long, value_name = "DIR")]
    reference: PathBuf,
    /// The Python that runs it
    #[arg(long, value_name = "PYTHON")]
    python: PathBuf,
    /// Labelled images in any layout, with a training and a held-out split
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/fashion-mnist"))]
    data: String,
    /// The split that both are judged on
    #[arg(long, value_name = "NAME", default_value = "test")]
    held_out_split: String,
    /// How many training images; all of them unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    images: Option<u32>,
    /// Which model
    #[arg(long, value_enum, default_value_t = Model::Quickstart)]
    model: Model,
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Passes over the images in pretraining
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    pretrain_epochs: u32,
    /// Passes over the images in fine-tuning; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 10)]
    finetune_epochs: u32,
    /// Peak learning rate of pretraining
    #[arg(long, value_name = "LR", default_value_t = 3e-3)]
    pretrain_lr: f64,
    /// Peak learning rate of fine-tuning
    #[arg(long, value_name = "LR", default_value_t = 3e-3)]
    finetune_lr: f64,
    /// Images in a step
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Where the runs of both are kept; a temporary folder unless given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    arguments::main(|options: Options| {
        let temporary = tempfile::tempdir()?;
        let out = options.out.clone().unwrap_or_else(|| temporary.path().to_path_buf());
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        let out = out.canonicalize()?;
        let bench = Bench { pictures: out.join("pictures"), out, options };
        bench.run()
    })
}

/// What was measured of one side, a value for each seed.
#[derive(Default)]
struct Row {
    name: String,
    values: Vec<f64>,
    seconds: Vec<f64>,
}

struct Bench {
    options: Options,
    out: PathBuf,
    pictures: PathBuf,
}

impl Bench {
    fn run(&self) -> Result<()> {
        let o = &self.options;
        let model = VitNepaConfig { num_channels: 3, ..o.model.config() };
        let classes = pictures::write(&o.data, &o.held_out_split, o.images.map(|n| n as usize), &self.pictures)?;
        let reference = Reference::new(&o.reference, &o.python, &self.out, &model)?;
        println!(
            "model {}, {} epochs of pretraining, {} of fine-tuning; load before: {}",
            o.model.name(),
            o.pretrain_epochs,
            o.finetune_epochs,
            load()
        );
        let mut rows: Vec<Row> = Vec::new();
        for seed in 0..o.seeds {
            self.pretraining(seed, &reference, &mut rows)?;
            if o.finetune_epochs > 0 {
                self.finetuning(seed, classes, &reference, &mut rows)?;
            }
        }
        print(&rows);
        Ok(())
    }

    fn pretraining(&self, seed: u64, reference: &Reference, rows: &mut Vec<Row>) -> Result<()> {
        let o = &self.options;
        let folder = self.out.join(format!("pretrain-{seed}"));
        let training = self.training(o.pretrain_epochs, o.pretrain_lr, seed);
        let ours = self.nepa("pretrain.rhai", ("config", reference.config()), &training, &folder.join("ours"))?;
        let theirs = folder.join("reference");
        let theirs = timed(reference.pretrain(&training, &theirs), &theirs.with_extension("log"))?;
        for (side, seconds, model, weights) in
            [("ours", ours, "ours/model", ""), ("reference", theirs, "reference", "raw")]
        {
            let found = self.judged(&folder.join(model), weights, &folder.join(format!("judged-{side}")))?;
            for what in ["probe", "knn"] {
                note(rows, &format!("pretrained, {what}: {side}"), number(&found, what)?, seconds);
            }
        }
        Ok(())
    }

    /// Both start from the weights that the reference has pretrained and made a classifier.
    fn finetuning(&self, seed: u64, classes: usize, reference: &Reference, rows: &mut Vec<Row>) -> Result<()> {
        let o = &self.options;
        let folder = self.out.join(format!("finetune-{seed}"));
        fs::create_dir_all(&folder)?;
        let start = folder.join("start");
        let pretrained = self.out.join(format!("pretrain-{seed}/reference"));
        timed(reference.classifier(&pretrained, classes, &start), &folder.join("start.log"))?;
        let training = self.training(o.finetune_epochs, o.finetune_lr, seed);
        let from = ("model", start.display().to_string());
        let ours = self.nepa("finetune.rhai", from, &training, &folder.join("ours"))?;
        let theirs = folder.join("reference");
        let theirs = timed(reference.finetune(&start, &training, &theirs), &theirs.with_extension("log"))?;
        for (side, seconds, models) in
            [("ours", ours, ["ours/model", "ours/model-ema"]), ("reference", theirs, ["reference", "reference"])]
        {
            for (model, weights) in models.into_iter().zip(["raw", "ema"]) {
                let found =
                    self.judged(&folder.join(model), weights, &folder.join(format!("judged-{side}-{weights}")))?;
                note(rows, &format!("fine-tuned, {weights} weights: {side}"), number(&found, "top1")?, seconds);
            }
        }
        Ok(())
    }

    fn training(&self, epochs: u32, lr: f64, seed: u64) -> Training<'_> {
        Training { pictures: &self.pictures, epochs, batch: self.options.batch, lr, seed }
    }

    /// Trains with a script of this folder; its seconds.
    fn nepa(&self, script: &str, from: (&str, String), training: &Training, out: &Path) -> Result<f64> {
        let settings = [
            from,
            ("data", self.pictures.display().to_string()),
            ("epochs", training.epochs.to_string()),
            ("batch", training.batch.to_string()),
            ("lr", training.lr.to_string()),
        ];
        timed(script_here(script, &settings, training.seed, out), &out.with_extension("log"))
    }

    /// What a model of either side comes to on the held-out pictures.
    fn judged(&self, model: &Path, weights: &str, out: &Path) -> Result<Value> {
        let settings = [
            ("model", model.display().to_string()),
            ("weights", weights.to_string()),
            ("data", self.pictures.display().to_string()),
        ];
        timed(script_here("judge.rhai", &settings, 0, out), &out.with_extension("log"))?;
        let metrics = fs::read_to_string(out.join("metrics.jsonl"))?;
        Ok(serde_json::from_str(metrics.lines().last().context("nothing was logged")?)?)
    }
}

/// A script of this folder with parameters.
fn script_here(script: &str, settings: &[(&str, String)], seed: u64, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nepa"));
    command.args(["run", &format!("{}/benches/outcome/{script}", env!("CARGO_MANIFEST_DIR")), "--device", "cpu"]);
    command.args(["--seed", &seed.to_string(), "--out"]).arg(out);
    for (name, value) in settings {
        command.args(["--set", &format!("{name}={value}")]);
    }
    command
}

fn number(values: &Value, name: &str) -> Result<f64> {
    values[name].as_f64().with_context(|| format!("no {name} in {values}"))
}

/// Runs a command, whose words go into a log; its seconds.
fn timed(mut command: Command, log: &Path) -> Result<f64> {
    fs::create_dir_all(log.parent().context("a log lies in a folder")?)?;
    let file = File::create(log)?;
    let started = Instant::now();
    let status = command.stdout(file.try_clone()?).stderr(file).status();
    let status = status.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let seconds = started.elapsed().as_secs_f64();
    if !status.success() {
        let said = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        bail!("{}: {status}\n{}", log.display(), lines[lines.len().saturating_sub(20)..].join("\n"));
    }
    println!(
        "  {:<60} {seconds:>7.1} s",
        log.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    );
    Ok(seconds)
}

fn note(rows: &mut Vec<Row>, name: &str, value: f64, seconds: f64) {
    if !rows.iter().any(|row| row.name == name) {
        rows.push(Row { name: name.into(), ..Row::default() });
    }
    let row = rows.iter_mut().find(|row| row.name == name).expect("just added");
    row.values.push(value);
    row.seconds.push(seconds);
}

/// The table: accuracy of both sides in percent and seconds of training, means and standard deviations over the seeds.
fn print(rows: &[Row]) {
    println!("\n{:<40} {:>16} {:>18}", "", "top-1 (%)", "training (s)");
    for row in rows {
        println!("{:<40} {:>16} {:>18}", row.name, spread(&row.values, 2), spread(&row.seconds, 1));
    }
    println!();
    for (task, what) in [("pretraining", "pretrained, probe"), ("fine-tuning", "fine-tuned, raw weights")] {
        let of = |side| rows.iter().find(|row| row.name == format!("{what}: {side}"));
        if let (Some(ours), Some(reference)) = (of("ours"), of("reference")) {
            let ratios: Vec<f64> = reference.seconds.iter().zip(&ours.seconds).map(|(r, o)| r / o).collect();
            println!("{task}: time, reference / ours: {:.2}", median(&ratios));
        }
    }
}

fn spread(values: &[f64], digits: usize) -> String {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    if n < 2.0 { format!("{mean:.digits$}") } else { format!("{mean:.digits$} ± {:.digits$}", variance.sqrt()) }
}
