//! `nepa data`: what a folder of images holds, whether all of it can be read, what the transforms make of it, and how
//! fast.

mod report;
mod scan;
mod sheet;
mod speed;

use super::DataArgs;
use crate::data::batch::BatchStep;
use crate::data::loader::{Loader, LoaderOptions};
use crate::data::pipeline::Pipeline;
use crate::data::source::{self, SourceRef};
use crate::error::{Result, did_you_mean};
use crate::script::{Host, Report, Steps};
use crate::train::signals::Interrupt;
use std::sync::Arc;

/// What a model sees in pretraining.
const PRETRAINING: &str =
    "[transform::random_resized_crop(224), transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)]";
/// For images that are all of one size, small as a rule.
const ONE_SIZE: &str = "[transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)]";

/// Runs the command; the exit code.
pub fn data(args: &DataArgs, host: &Host, interrupt: &Interrupt) -> Result<u8> {
    let threads =
        args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()), |n| n as usize);
    crate::device::set(tch::Device::Cpu, threads)?;
    crate::random::set_seed(args.seed);
    let splits = source::splits(&args.path)?;
    if let Some(split) = &args.split {
        // Opening knows the synonyms too; this only helps with a typo.
        source::open(&args.path, Some(split)).map_err(|e| {
            let near = did_you_mean(split, splits.iter().map(String::as_str));
            if near.is_empty() { e } else { e.context(format!("no split `{split}`{near}")) }
        })?;
    }
    let chosen: Vec<Option<&str>> = match (&args.split, &splits[..]) {
        (Some(split), _) => vec![Some(split)],
        (None, []) => vec![None],
        (None, splits) => splits.iter().map(|s| Some(s.as_str())).collect(),
    };
    out!("{}: {}", args.path, source::layout(&args.path)?);
    let mut sources = Vec::new();
    for split in chosen {
        let source = source::open(&args.path, split)?;
        report::print(&source, args.seed)?;
        sources.push(source);
    }
    let first = &sources[0];
    let mut code = 0;
    if args.scan {
        code = scan::scan(&sources, threads, args.list.as_deref(), interrupt)?;
    }
    if args.sheet.is_some() || args.speed {
        let text = match (&args.transforms, first.shape()) {
            (Some(text), _) => text.as_str(),
            (None, Some(_)) => ONE_SIZE,
            (None, None) => PRETRAINING,
        };
        let steps = match host.transforms("--transforms", text) {
            Ok(steps) => steps,
            Err(report) => {
                eprint!("{}", report.render(&host.sources));
                return Ok(super::FAILED);
            }
        };
        if let Some(path) = &args.sheet {
            sheet::draw(path, first, &steps, args.samples as usize, args.seed)?;
        }
        if args.speed {
            speed::measure(first, &steps, threads, interrupt)?;
        }
    }
    Ok(code)
}

/// A loader of the given transforms.
fn loader(source: SourceRef, steps: &Steps, options: &LoaderOptions) -> Result<Loader> {
    Loader::new(source, Pipeline::new(&steps.image, false), steps.erasing.clone(), options)
}

/// The first normalisation among the steps, to undo it for the eye.
fn normalization(steps: &Steps) -> Option<&crate::data::batch::Normalize> {
    steps.batch.iter().find_map(|step| match step {
        BatchStep::Normalize(n) => Some(n),
        _ => None,
    })
}

impl Host {
    /// The list of transforms that a text means, as in a recipe.
    fn transforms(&self, name: &str, text: &str) -> std::result::Result<Steps, Report> {
        self.evaluate(name, text, |value| Steps::of(name, value))
    }
}

/// Several names of many: "a, b, c and 7 more".
fn some(names: &[String], most: usize) -> String {
    let shown = names.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A source repeated without end, as far as anyone will look.
fn endless(source: &SourceRef) -> Result<SourceRef> {
    let times = (1 << 22) / source.len().max(1) + 1;
    source::concat(&vec![Arc::clone(source); times.min(1 << 16)])
}
