//! Images that the loader prepares, beside what the base model's step takes in.

use super::{Check, Deadline, Section, Trouble, count};
use serde_json::json;

pub const ASKS: &str = "`nepa data --speed` on synthetic JPEG files of 500 x 375 pixels, about 110 KB each, in the \
     page cache, with the augmentation of pretraining; beside the base model's images/s (part \
     step).";

pub fn run(check: &mut Check, deadline: Deadline, section: &mut Section) -> Result<(), Trouble> {
    let images = check.images()?;
    let mut command = check.nepa();
    command.arg("data").arg(&images.folder).args(["--split", "train", "--speed"]);
    if check.rehearsal {
        command.args(["--threads", "1"]);
    }
    let ended = check.runner.run("nepa data", &mut command, deadline, &mut || None)?.succeeded()?;
    // Lines such as `        4       1901        3.51×`.
    let speeds = ended.out.lines().filter_map(|line| {
        let [threads, speed, ratio] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        ratio.ends_with('×').then_some((threads.parse::<u64>().ok()?, speed.parse::<f64>().ok()?))
    });
    let speeds: Vec<(u64, f64)> = speeds.collect();
    let Some((threads, speed)) = speeds.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)) else {
        return Err(ended.trouble("no speeds were printed"));
    };
    section.headline = format!("{speed:.0} images/s with {}", count(threads, "thread"));
    if let Some(needed) = check.images_per_second {
        section.headline += &format!("; a step of the base model takes in {needed:.0}: {:.2} of that", speed / needed);
    }
    let mut rows = vec![["threads", "images/s"].map(String::from).to_vec()];
    rows.extend(speeds.iter().map(|(threads, speed)| vec![threads.to_string(), format!("{speed:.0}")]));
    section.line(format!("files of {:.0} KB on average", images.bytes / 1e3));
    section.table(&rows);
    section.set("bytes", images.bytes.into());
    section.set("images_per_second", speeds.iter().map(|(n, speed)| json!({ "threads": n, "speed": speed })).collect());
    section.set("needed", check.images_per_second.into());
    Ok(())
}
