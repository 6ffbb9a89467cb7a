//! `nepa data`: what a folder of images holds, which images are broken, what the transforms make of them, and how fast
//! they load.

mod channels;
mod facts;
pub(super) mod pack;
mod report;
mod scan;
mod sheet;
mod speed;

use super::{DataArgs, DataCommand, FAILED};
use crate::bail_hint;
use crate::data::source::{OpenOptions, Place, SourceRef};
use crate::device;
use crate::error::Result;
use crate::output::{out, to_stderr};
use crate::run::signals::Interrupt;
use crate::script::{self, Host, ScriptError};
use std::path::Path;

/// What errors call the text of the transforms.
const TRANSFORMS: &str = "--transforms";

/// What a model sees in pretraining.
const PRETRAINING: &str =
    "[transform::random_resized_crop(224), transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)]";
/// For images that are all of one size, small as a rule.
const ONE_SIZE: &str = "[transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)]";

/// One split, or all images of a layout without splits.
struct Split {
    name: Option<String>,
    source: SourceRef,
}

impl Split {
    /// Its name in what is printed.
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("images")
    }
}

/// "1 image", "2 images"
fn counted(n: usize, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}

pub fn data(args: &DataArgs, host: &Host) -> u8 {
    match run(args, host) {
        Ok(code) => code,
        Err(report) => {
            to_stderr(&report.render(&host.sources));
            FAILED
        }
    }
}

fn run(args: &DataArgs, host: &Host) -> Result<u8, ScriptError> {
    if let Some(DataCommand::Pack(args)) = &args.command {
        return pack::run(args, host);
    }
    let path = args.path.as_deref().unwrap_or_default();
    // Wrong arguments are reported before hours of reading.
    let evaluate = |text: &str| host.evaluate(TRANSFORMS, text, |value| script::pipeline(TRANSFORMS, value, false));
    let given = args.transforms.as_deref().map(evaluate).transpose()?;
    if let Some(sheet) = &args.sheet {
        check_sheet(sheet)?;
    }
    if args.scan {
        scan::check_list(&args.list)?;
    }
    let threads =
        args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()), |n| n as usize);
    device::set(tch::Device::Cpu, threads)?;
    crate::random::set_seed(args.seed);

    let place = Place::find(path)?;
    let mode = args.mode.parse().expect("one of the modes");
    let splits = open(&place, args.split.as_deref(), &OpenOptions { mode, ..OpenOptions::default() })?;
    report::print(path, &place, &splits, args.seed);
    let mut code = 0;
    let interrupt = Interrupt::default();
    if args.scan {
        // From here on Ctrl-C ends the work, not the process, so that the findings are still printed.
        interrupt.listen()?;
        code = scan::scan(path, &splits, &args.list, threads, &interrupt)?;
    }
    let shown = &splits[0];
    let text = match (&args.transforms, shown.source.shape()) {
        (Some(text), _) => text.as_str(),
        (None, Some(_)) => ONE_SIZE,
        (None, None) => PRETRAINING,
    };
    let pipeline = given.map_or_else(|| evaluate(text), Ok)?;
    if let (Some(file), None) = (&args.sheet, interrupt.exit_code()) {
        let title = [format!("{}: after {text}", shown.source.describe())];
        let samples = sheet::Samples { count: args.samples.into(), seed: args.seed, threads };
        sheet::draw(file, &title, shown, &pipeline, &samples).map_err(|e| host.report_of(e, TRANSFORMS))?;
        out!("\ncontact sheet: {}", file.display());
    }
    if args.speed && interrupt.exit_code().is_none() {
        speed::measure(shown, &pipeline, text, threads, &interrupt).map_err(|e| host.report_of(e, TRANSFORMS))?;
    }
    Ok(interrupt.exit_code().map_or(code, |code| code as u8))
}

fn check_sheet(sheet: &Path) -> Result<()> {
    if !sheet.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) {
        let example = sheet.with_extension("png");
        bail_hint!("--sheet: expected a PNG file, found {}", sheet.display(); "for example {}", example.display());
    }
    Ok(())
}

/// The split that is asked for, or all of them.
fn open(place: &Place, split: Option<&str>, options: &OpenOptions) -> Result<Vec<Split>> {
    let splits = if split.is_some() { Vec::new() } else { place.splits()? };
    let names: Vec<Option<&str>> = match splits.is_empty() {
        true => vec![split],
        false => splits.iter().map(|s| Some(s.as_str())).collect(),
    };
    let open = |name: Option<&str>| {
        let source = place.open(name, options)?;
        Ok(Split { name: source.split().or(name).map(str::to_string), source })
    };
    names.into_iter().map(open).collect()
}
