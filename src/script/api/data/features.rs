//! Files of features.

use super::source::Source;
use crate::dist;
use crate::error::{Context as _, Result, bail};
use crate::features_file::{self, Plan, Rows};
use crate::script::api::checkpoints::plain_settings;
use crate::script::types::handles;
use crate::script::values::{Tensor, found, ints};
use nepa_macros::functions;
use rhai::{Array, Map};
use serde_json::json;
use std::path::Path;
use std::rc::Rc;
use tch::{Device, Kind};

pub use functions::register;

handles! { "FeaturesFile": FeaturesFile; }

/// The files, with the images whose features they hold.
#[derive(Clone)]
pub struct FeaturesFile(Rc<features_file::FeaturesFile>, Source);

impl FeaturesFile {
    /// See `data::features_file`.
    pub fn open(path: &Path, images: &Source, width: usize, shard: usize, settings: &Map) -> Result<Self> {
        let mut settings = plain_settings(settings);
        settings.insert("data".into(), crate::data::source::fingerprint(images.0.as_ref())?.into());
        let class_names = images.0.class_names().to_vec();
        let plan = Plan { images: images.0.len(), width, shard, class_names, settings };
        let files = features_file::FeaturesFile::new(path, plan)?;
        dist::on_rank0(&format!("the files of {}", path.display()), || files.begin())?;
        Ok(Self(Rc::new(files), images.clone()))
    }

    /// Checks the number of a file.
    fn number(&self, i: i64) -> Result<usize> {
        match usize::try_from(i).ok().filter(|i| *i < self.0.count()) {
            Some(i) => Ok(i),
            None => bail!("expected the number of a file, 0 to {}, found {i}", self.0.count() - 1),
        }
    }
}

/// The tensor at a key of what features::extract gives.
fn tensor(map: &Map, key: &str) -> Result<tch::Tensor> {
    match map.get(key).and_then(|value| value.read_lock::<Tensor>()) {
        Some(tensor) => Ok(tensor.f_to_device(Device::Cpu)?),
        None => bail!("write: expected a map with a tensor `{key}`, as features::extract gives it"),
    }
}

#[functions]
mod functions {
    use super::*;

    /// The number of files.
    #[script(get)]
    pub fn count(files: &FeaturesFile) -> usize {
        files.0.count()
    }

    /// The path of file i.
    pub fn path(files: &FeaturesFile, i: i64) -> Result<String> {
        Ok(files.0.file(files.number(i)?).display().to_string())
    }

    /// The images of file i, a source.
    pub fn images(files: &FeaturesFile, i: i64) -> Result<Source> {
        let indices: Vec<usize> = files.0.range(files.number(i)?).collect();
        Ok(Source(crate::data::source::subset(&files.1.0, &indices)?))
    }

    /// Whether file i has been written; all ranks ask, and get rank 0's answer.
    pub fn is_written(files: &FeaturesFile, i: i64) -> Result<bool> {
        let i = files.number(i)?;
        let answer = dist::broadcast_from_rank0("the files of features", || Ok(json!(files.0.is_written(i)?)))?;
        answer.as_bool().context("rank 0 answers with yes or no")
    }

    /// Writes file i, whole or not at all: the map that features::extract returned for its images. Rank 0 writes; all
    /// call it.
    pub fn write(files: &FeaturesFile, i: i64, features: Map) -> Result<()> {
        let number = files.number(i)?;
        let (rows, labels) = (tensor(&features, "features")?, tensor(&features, "labels")?);
        let labels = Vec::<i64>::try_from(&labels.f_to_kind(Kind::Int64)?)?;
        let range = files.0.range(number);
        let read = match features.get("read") {
            None => range.collect::<Vec<usize>>(),
            Some(value) if value.is_unit() => range.collect(),
            Some(value) => match value.read_lock::<Array>() {
                Some(list) => ints(&list, "read")?.into_iter().map(|i| range.start + i as usize).collect(),
                None => bail!("write: read: expected an array of numbers of images, found {}", found(value)),
            },
        };
        let names: Vec<String> = read.into_iter().map(|i| files.1.0.name(i)).collect();
        let rows = Rows { features: &rows, labels: &labels, names: &names };
        dist::on_rank0(&format!("the writing of {}", files.0.file(number).display()), || files.0.write(number, &rows))
    }
}
