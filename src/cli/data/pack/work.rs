//! Packing the images of a shard: on all threads, written in their order.

use super::destination::{LeftOut, Settings, ShardRecord};
use super::format;
use super::image::{How, Packed, pack};
use super::shard::{Entry, ShardWriter, Stored};
use crate::data::source::{SourceRef, StoredImage, sample_key};
use crate::error::{Context as _, Diagnostic, Result, catch_panic, one_line};
use crate::run::progress::Progress;
use crate::run::signals::Interrupt;
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// Images that each thread packs before they are written: all of them are in memory, and as many that are written.
const A_THREAD: usize = 8;

/// The images of a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardPlan {
    pub file: String,
    /// Which of the splits they are of.
    pub split: usize,
    /// Their indices there.
    pub images: Range<usize>,
}

/// How images are packed.
pub struct Work<'a> {
    pub settings: &'a Settings,
    /// The names of the classes; without, images have no labels.
    pub class_names: &'a [String],
    /// Whether broken images are left out.
    pub skips_bad: bool,
    pub threads: usize,
    pub interrupt: &'a Interrupt,
}

/// Image `index` of a source, packed, and how many bytes it had.
pub fn pack_image(source: &SourceRef, index: usize, settings: &Settings) -> Result<(Packed, u64)> {
    catch_panic(|| {
        let content = source.read(index)?;
        let before = match &content {
            StoredImage::Encoded(bytes) => bytes.len(),
            StoredImage::Pixels(image) => image.data.len(),
        };
        Ok((pack(content, settings.shorter_side, settings.quality)?, before as u64))
    })
}

/// Names in an archive, each once.
#[derive(Default)]
pub struct Keys(HashSet<String>);

impl Keys {
    /// The key of the next image of a shard.
    pub fn next(&mut self, name: &str) -> String {
        let key = sample_key(name);
        let others = (2..).map(|n| format!("{key}-{n}"));
        let free = std::iter::once(key.clone()).chain(others).find(|key| !self.0.contains(key)).expect("endless");
        self.0.insert(free.clone());
        free
    }
}

impl Work<'_> {
    /// Writes a shard and reads it back; none if a signal came in between.
    pub fn write(
        &self,
        source: &SourceRef,
        plan: &ShardPlan,
        to: &Path,
        progress: &mut Progress,
    ) -> Result<Option<ShardRecord>> {
        let writing = || format!("cannot write {}", to.display());
        let mut shard = Shard {
            work: self,
            source,
            writer: format::create(to, self.settings.format, self.class_names).with_context(writing)?,
            keys: Keys::default(),
            stored: Vec::new(),
            record: ShardRecord { file: plan.file.clone(), ..Default::default() },
        };
        let chunk = A_THREAD * self.threads;
        let mut done: Vec<(usize, Result<(Packed, u64)>)> = Vec::new();
        // The last round only writes.
        for first in plan.images.clone().step_by(chunk).chain([plan.images.end]) {
            let images = first..(first + chunk).min(plan.images.end);
            let count = done.len();
            let pack = |index| (index, pack_image(source, index, self.settings));
            let pack_next = || images.into_par_iter().map(pack).collect::<Vec<_>>();
            let (next, written) = rayon::join(pack_next, || shard.add(std::mem::take(&mut done)));
            written?;
            done = next;
            let mut values = Map::new();
            if !shard.record.left_out.is_empty() {
                values.insert("left out".into(), Value::from(shard.record.left_out.len()));
            }
            (0..count).for_each(|_| progress.step(1, &values));
            if self.interrupt.exit_code().is_some() {
                return Ok(None);
            }
        }
        let Shard { writer, stored, mut record, .. } = shard;
        let file = writer.finish().with_context(writing)?;
        format::verify(to, self.settings.format, file, &stored)?;
        (record.bytes, record.crc32) = (file.bytes, format!("{:08x}", file.crc32));
        Ok(Some(record))
    }
}

/// A shard that is being written.
struct Shard<'a> {
    work: &'a Work<'a>,
    source: &'a SourceRef,
    writer: Box<dyn ShardWriter>,
    keys: Keys,
    stored: Vec<Stored>,
    record: ShardRecord,
}

impl Shard<'_> {
    /// Adds the next images.
    fn add(&mut self, images: Vec<(usize, Result<(Packed, u64)>)>) -> Result<()> {
        for (index, packed) in images {
            let name = self.source.name(index);
            let (packed, before) = match packed {
                Ok(packed) => packed,
                Err(e) if self.work.skips_bad => {
                    self.record.left_out.push(LeftOut { index, name, reason: one_line(&e) });
                    continue;
                }
                Err(e) => {
                    let what = format!("cannot pack item {index} ({name}) of {}", self.source.describe());
                    let hint = "the same command with --on-bad skip goes on, and leaves broken images out";
                    return Err(Diagnostic::new(format!("{what}: {}", one_line(&e))).hint(hint).into());
                }
            };
            let entry = Entry {
                name: &name,
                key: &self.keys.next(&name),
                ending: packed.ending,
                label: (!self.work.class_names.is_empty()).then(|| self.source.label(index)),
                bytes: &packed.bytes,
            };
            let added = self.writer.add(&entry).with_context(|| format!("cannot write {}", self.record.file))?;
            self.stored.push(added);
            let record = &mut self.record;
            record.images += 1;
            record.source_bytes += before;
            *match packed.how {
                How::Copied => &mut record.copied,
                How::Resized => &mut record.resized,
                How::Encoded => &mut record.encoded,
                How::Kept => &mut record.kept,
            } += 1;
        }
        Ok(())
    }
}
