//! Images per second from Parquet shards, row by row in shuffled order: by the program's reader, which keeps the file
//! offset of each image, and by the `parquet` crate's with its page index.

use arrow_array::cast::AsArray as _;
use arrow_array::types::BinaryType;
use nepa::data::source::{Parquet, Source as _, StoredImage, TableOptions};
use nepa::error::{Context as _, Result, bail};
use nepa::random::{Key, Permutation};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::file::metadata::PageIndexPolicy;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// How long one reader is measured.
const SECONDS: f64 = 3.0;

/// `--shards DIR`: every shard in DIR by both readers, each in a separate process. `--shards ours|crate FILE` is such a
/// process.
pub fn compare(args: &[String]) -> Result<()> {
    let folder = match args {
        [folder] => folder,
        [reader, file] => return measure(reader, file),
        _ => bail!("--shards: expected the folder that make_shards.py wrote"),
    };
    println!(
        "{:<28}{:>16}{:>16}{:>16}{:>12}{:>12}",
        "shard", "ours, first", "ours, images/s", "crate", "ours MB", "crate MB"
    );
    let mut shards: Vec<_> = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    shards.sort();
    for shard in shards.iter().filter(|s| s.extension().is_some_and(|e| e == "parquet")) {
        let run = |reader: &str| -> Result<Vec<f64>> {
            let output = Command::new(std::env::current_exe()?).args(["--shards", reader]).arg(shard).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if !output.status.success() {
                bail!("{} by {reader}: {}", shard.display(), String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
        };
        let (ours, by_crate) = (run("ours")?, run("crate")?);
        let name = shard.file_stem().unwrap_or_default().to_string_lossy();
        println!(
            "{name:<28}{:>16.0}{:>16.0}{:>16.0}{:>12.0}{:>12.0}",
            ours[0], ours[1], by_crate[1], ours[2], by_crate[2]
        );
    }
    Ok(())
}

/// Prints images/s of the first pass and of later ones, and the peak memory in MB.
fn measure(reader: &str, file: &str) -> Result<()> {
    let shard = Parquet::open(file, None, &TableOptions::default())?;
    let metadata = ArrowReaderMetadata::load(
        &File::open(file)?,
        ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional),
    )?;
    let read = |row: usize| -> Result<usize> {
        match reader {
            "ours" => match shard.read(row)? {
                StoredImage::Encoded(bytes) => Ok(bytes.len()),
                StoredImage::Pixels(_) => bail!("files were expected"),
            },
            _ => by_crate(Path::new(file), &metadata, row),
        }
    };
    let order = Permutation::new(Key::new(1), shard.len());
    let (mut rates, mut bytes) = (Vec::new(), 0);
    // The first pass of the program's reader finds the offsets.
    for pass in 0..2 {
        let (start, mut count) = (Instant::now(), 0);
        while count < shard.len() || pass > 0 && start.elapsed().as_secs_f64() < SECONDS {
            bytes += read(order.at(count % shard.len()))?;
            count += 1;
            if start.elapsed().as_secs_f64() > 2.0 * SECONDS {
                break;
            }
        }
        rates.push(count as f64 / start.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    println!("{} {} {} {bytes}", rates[0], rates[1], peak.context("no VmHWM")? / 1000.0);
    Ok(())
}

/// One row's image as the `parquet` crate reads it.
fn by_crate(file: &Path, metadata: &ArrowReaderMetadata, row: usize) -> Result<usize> {
    let (mut group, mut inside) = (0, row);
    while inside >= metadata.metadata().row_group(group).num_rows() as usize {
        inside -= metadata.metadata().row_group(group).num_rows() as usize;
        group += 1;
    }
    let schema = metadata.parquet_schema();
    let leaf = schema.columns().iter().position(|c| c.path().string() == "image.bytes").context("no image.bytes")?;
    let batch = ParquetRecordBatchReaderBuilder::new_with_metadata(File::open(file)?, metadata.clone())
        .with_projection(ProjectionMask::leaves(schema, [leaf]))
        .with_row_groups(vec![group])
        .with_row_selection(RowSelection::from(vec![RowSelector::skip(inside), RowSelector::select(1)]))
        .with_batch_size(1)
        .build()?
        .next()
        .context("the row is missing")??;
    Ok(batch.column(0).as_struct().column(0).as_bytes::<BinaryType>().value(0).len())
}
