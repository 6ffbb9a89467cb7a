//! `preprocessor_config.json`: how Hugging Face's image processors make a model's input of a picture.
//!
//! As in the reference's published folders, pretraining and classification alike: both sides resized to the image size,
//! bilinear, without a crop. The reference's training and evaluation take the image size and the normalisation from it,
//! and bring crops of their own.
//!
//! Processors make numbers from 0 to 1 of pictures of 8 bits. A model that was trained on images read as they are (the
//! mode "unchanged" of data::open) is given them as they come, which `image_mode` records.

use crate::bail_hint;
use crate::error::{Result, ensure};
use crate::nn::{InputNormalization, VitNepa};
use crate::untrusted;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The file's name.
pub const FILE: &str = "preprocessor_config.json";
/// Pillow's names of interpolations, by its numbers.
pub const INTERPOLATIONS: [&str; 6] = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"];
const BILINEAR: usize = 2;
/// nepa's own key, of which others take no notice.
const MODE: &str = "image_mode";

/// The file's content for a model.
pub fn to_json(model: &VitNepa) -> Map<String, Value> {
    let side = model.architecture().image_size;
    let InputNormalization { mean, std, is_unchanged } = model.normalization();
    let content = json!({
        "do_normalize": mean.iter().any(|m| *m != 0.0) || std.iter().any(|s| *s != 1.0),
        "do_rescale": !is_unchanged,
        "do_resize": true,
        "image_mean": mean,
        "image_processor_type": "ViTImageProcessorFast",
        "image_std": std,
        "resample": BILINEAR,
        "rescale_factor": 1.0 / 255.0,
        "size": { "height": side, "width": side },
    });
    let Value::Object(mut content) = content else { unreachable!("a map") };
    if is_unchanged {
        content.insert(MODE.into(), "unchanged".into());
    }
    content
}

/// The content of a file, if there is one.
pub fn read(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.is_file() {
        return Ok(None);
    }
    match untrusted::read_json(path)? {
        Value::Object(content) => Ok(Some(content)),
        _ => bail_hint!("{} is not a JSON object", path.display(); "correct it, or remove it"),
    }
}

/// The normalisation that a file's content asks for, if it says: of pixels in [0, 1], or of images as they are. `place`
/// is where it stands.
pub fn normalization(content: &Map<String, Value>, place: &str) -> Result<Option<InputNormalization>> {
    let keys = Keys { content, place };
    let normalizes = keys.flag("do_normalize")?;
    let found = match normalizes {
        true => keys.numbers("image_mean")?.zip(keys.numbers("image_std")?),
        false => Some((vec![0.0], vec![1.0])),
    };
    let Some((mean, std)) = found else { return Ok(None) };
    let as_they_stand =
        |is_unchanged| Ok(Some(InputNormalization { mean: mean.clone(), std: std.clone(), is_unchanged }));
    if content.get(MODE).is_some_and(|mode| mode == "unchanged") {
        return as_they_stand(true);
    }
    let rescales = keys.flag("do_rescale")?;
    let factor = if rescales { keys.factor()? } else { 1.0 };
    let is_about = |expected: f64| (factor / expected - 1.0).abs() < 1e-6;
    // Integers of 16 bits are read as they are, divided by their greatest value.
    if is_about(1.0 / 255.0) || is_about(1.0 / 65535.0) {
        return as_they_stand(is_about(1.0 / 65535.0));
    }
    // (255 f x − mean) / std of pixels x in [0, 1].
    let folded = |all: &[f64]| all.iter().map(|number| number / (255.0 * factor)).collect::<Vec<f64>>();
    let within = |all: &[f64]| all.iter().all(|number| (0.0..=1.0).contains(number));
    let of_pictures = [1, 3].contains(&mean.len().max(std.len()));
    if of_pictures && normalizes && !rescales && within(&mean) && within(&std) {
        bail_hint!(
            "{place}: do_rescale is false, but image_mean {mean:?} and image_std {std:?} are those of pixels from 0 to 1";
            "if pixels are divided by 255 before, set do_rescale to true; if they are taken as they are, from 0 to 255, \
             set rescale_factor to 1, too"
        );
    }
    let (of_8_bits, deviation) = (folded(&mean), folded(&std));
    match of_pictures && within(&of_8_bits) && within(&deviation) {
        true => Ok(Some(InputNormalization { mean: of_8_bits, std: deviation, is_unchanged: false })),
        // No pictures, which it does not claim either.
        false if !rescales => as_they_stand(true),
        false => bail_hint!(
            "{place}: rescale_factor is {factor}, with image_mean {mean:?} and image_std {std:?}: these are not the numbers \
             of pictures of 8 bits";
            "for images of more bits, give mean and deviation of what data::open(path, split, #{{ mode: \"unchanged\" }}) \
             gives, which `nepa data PATH --mode unchanged` prints, and set {MODE} to \"unchanged\""
        ),
    }
}

/// Keys of a file, which must be of their type.
struct Keys<'a> {
    content: &'a Map<String, Value>,
    place: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.content.get(key).filter(|value| !value.is_null())
    }

    /// True unless it says otherwise.
    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(true),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => bail_hint!("{}: {key} is {other}, expected true or false", self.place; "correct it"),
        }
    }

    /// What pixels of 0 to 255 are multiplied by.
    fn factor(&self) -> Result<f64> {
        ensure!(
            self.get("rescale_offset") != Some(&Value::Bool(true)),
            "{}: rescale_offset is true, which is not read: no processor of a ViT has it",
            self.place
        );
        let Some(value) = self.get("rescale_factor") else { return Ok(1.0 / 255.0) };
        match value.as_f64().filter(|factor| *factor > 0.0) {
            Some(factor) => Ok(factor),
            None => bail_hint!(
                "{}: rescale_factor is {value}, expected a number above 0", self.place;
                "correct it; 1/255 = 0.00392156862745098 is usual"
            ),
        }
    }

    fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let found = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(items)) => items.iter().map(Value::as_f64).collect(),
            Some(one) => one.as_f64().map(|n| vec![n]),
        };
        match found {
            Some(numbers) => Ok(Some(numbers)),
            None => bail_hint!(
                "{}: {key} is {}, expected a list of numbers", self.place, self.content[key];
                "correct it, or remove the file: then 0.5 is taken, as in the reference"
            ),
        }
    }
}

/// How a file's content fits pictures to a model's square.
pub struct Fit {
    /// Both sides after resizing, or the shorter one; none if it does not say.
    pub edge: Option<i64>,
    /// Whether both sides become `edge`, whatever the aspect ratio.
    pub squashes: bool,
    /// The side of the crop from the middle, if there is one.
    pub crop: Option<i64>,
    /// Pillow's name of the interpolation, if it is known.
    pub interpolation: Option<&'static str>,
}

impl Fit {
    /// As a file's content says.
    pub fn of(content: &Map<String, Value>) -> Self {
        let number = |value: Option<&Value>, key: &str| value.and_then(|value| value.get(key)?.as_i64());
        let size = content.get("size");
        let height = number(size, "height");
        let one = size.and_then(Value::as_i64);
        let edge = number(size, "shortest_edge").or(height).or(one);
        // A single number means both sides to the processors of ViT, DeiT and MAE, the shorter one to DINOv2's and CLIP's.
        let named = |key: &str| content.get(key).and_then(Value::as_str).unwrap_or_default();
        let by_vit = ["image_processor_type", "feature_extractor_type"]
            .iter()
            .any(|key| ["ViT", "DeiT"].iter().any(|of| named(key).starts_with(of)));
        let crops = content.get("do_center_crop").and_then(Value::as_bool).unwrap_or(false);
        let crop = content.get("crop_size").filter(|_| crops);
        let resample = content.get("resample").and_then(Value::as_u64);
        Self {
            edge,
            squashes: height.is_some() || by_vit && one.is_some(),
            crop: number(crop, "height").or(crop.and_then(Value::as_i64)),
            interpolation: resample.and_then(|number| INTERPOLATIONS.get(number as usize).copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: Value) -> Result<Option<InputNormalization>> {
        normalization(content.as_object().unwrap(), "p.json")
    }

    /// What a processor computes of a pixel from 0 to 255 is what the normalisation gives for a pixel from 0 to 1.
    #[test]
    fn any_rescaling_of_8_bits_is_folded_into_mean_and_deviation() {
        for (content, factor, mean, std) in [
            (json!({ "image_mean": [0.5], "image_std": [0.25] }), 1.0 / 255.0, 0.5, 0.25),
            (json!({ "rescale_factor": 1.0 / 127.5, "image_mean": [1.0], "image_std": [1.0] }), 1.0 / 127.5, 1.0, 1.0),
            (json!({ "rescale_factor": 1, "image_mean": 120, "image_std": 60 }), 1.0, 120.0, 60.0),
            (json!({ "do_rescale": false, "image_mean": [123.7, 116.3, 103.5], "image_std": 58.4 }), 1.0, 123.7, 58.4),
            (json!({ "do_rescale": false, "do_normalize": false }), 1.0, 0.0, 1.0),
            (json!({ "do_normalize": false, "rescale_factor": 0.01, "image_mean": [9.0] }), 0.01, 0.0, 1.0),
        ] {
            let found = read(content.clone()).unwrap().unwrap();
            for pixel in [0.0, 17.0, 255.0] {
                let expected: f64 = (pixel * factor - mean) / std;
                let ours = (pixel / 255.0 - found.mean[0]) / found.std[0];
                assert!((ours - expected).abs() < 1e-9 * expected.abs().max(1.0), "{content}: {ours} {expected}");
            }
            assert!(!found.is_unchanged, "{content}");
        }
    }

    #[test]
    fn images_that_are_no_pictures_are_normalised_as_they_are() {
        for content in [
            json!({ "image_mode": "unchanged", "do_rescale": false, "image_mean": [0.05], "image_std": [0.01] }),
            json!({ "do_rescale": false, "image_mean": [1200.0], "image_std": [800.0] }),
            json!({ "do_rescale": false, "image_mean": [-3.0, 2.0, 1.0], "image_std": [1.5] }),
            json!({ "do_rescale": false, "image_mean": [0.5, 0.5, 0.5, 0.4], "image_std": [1.0] }),
            json!({ "rescale_factor": 1.0 / 65535.0, "image_mean": [0.05], "image_std": [0.01] }),
        ] {
            let found = read(content.clone()).unwrap().unwrap();
            assert!(found.is_unchanged && json!(found.mean) == content["image_mean"], "{content}: {found:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(read(json!({ "image_mean": [0.5] })).unwrap(), None);
        for (content, says) in [
            (
                json!({ "do_rescale": false, "image_mean": [0.5], "image_std": [0.5] }),
                "do_rescale is false, but image_mean",
            ),
            (
                json!({ "rescale_factor": 1e-4, "image_mean": [0.5], "image_std": [0.5] }),
                "not the numbers of pictures of 8 bits",
            ),
            (json!({ "rescale_factor": 0, "image_mean": [0.5], "image_std": [0.5] }), "rescale_factor is 0, expected"),
            (
                json!({ "do_rescale": "no", "image_mean": [0.5], "image_std": [0.5] }),
                "do_rescale is \"no\", expected true or false",
            ),
            (json!({ "rescale_offset": true, "image_mean": [0.5], "image_std": [0.5] }), "rescale_offset is true"),
        ] {
            let said = read(content.clone()).unwrap_err().to_string();
            assert!(said.starts_with("p.json: ") && said.contains(says), "{content}: {said}");
        }
    }
}
