//! Images per second from Parquet shards, row by row in shuffled order: by the program's reader, which keeps the file
//! offset of each image, and by the `parquet` crate's with its page index.

use crate::process::peak_memory;
use arrow_array::cast::AsArray as _;
use arrow_array::types::BinaryType;
use clap::ValueEnum;
use nepa::bail_hint;
use nepa::data::source::{OpenOptions, Parquet, Source as _, StoredImage};
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

/// Who reads a shard.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Reader {
    Ours,
    Crate,
}

/// Every shard in a folder by both readers, each in a separate process.
pub fn compare(folder: &Path) -> Result<()> {
    let reading = || format!("--shards: cannot read {}", folder.display());
    let entries = std::fs::read_dir(folder).with_context(reading)?;
    let mut shards: Vec<_> = entries.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    shards.retain(|shard| shard.extension().is_some_and(|e| e == "parquet"));
    shards.sort();
    if shards.is_empty() {
        bail_hint!(
            "--shards: {} has no .parquet files", folder.display();
            "make_shards.py writes some, see benches/data/README.md"
        );
    }
    println!(
        "{:<28}{:>16}{:>16}{:>16}{:>12}{:>12}",
        "shard", "ours, first", "ours, images/s", "crate", "ours MB", "crate MB"
    );
    for shard in &shards {
        let run = |reader: &str| -> Result<Vec<f64>> {
            let output = Command::new(std::env::current_exe()?).args(["shard", reader]).arg(shard).output()?;
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
pub fn measure(reader: Reader, file: &Path) -> Result<()> {
    let shard =
        Parquet::open(file.to_str().context("a path that is text was expected")?, None, &OpenOptions::default())?;
    let metadata = ArrowReaderMetadata::load(
        &File::open(file)?,
        ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional),
    )?;
    let read = |row: usize| -> Result<usize> {
        match reader {
            Reader::Ours => match shard.read(row)? {
                StoredImage::Encoded(bytes) => Ok(bytes.len()),
                StoredImage::Pixels(_) => bail!("files were expected"),
            },
            Reader::Crate => by_crate(file, &metadata, row),
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
    println!("{} {} {} {bytes}", rates[0], rates[1], peak_memory() as f64 / 1e6);
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
