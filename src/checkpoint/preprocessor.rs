//! `preprocessor_config.json`: how Hugging Face's image processors make a model's input of a picture.
//!
//! As in the reference's published folders, pretraining and classification alike: both sides resized to the image size,
//! bilinear, without a crop. The reference's training and evaluation take the image size and the normalisation from it,
//! and bring crops of their own.
//!
//! Processors make numbers from 0 to 1 of pictures of 8 bits. A model whose mean or deviation lies beyond that was trained on
//! other numbers (images read as they are), and is given them as they come.

use crate::bail_hint;
use crate::error::Result;
use crate::nn::{InputNormalization, VitNepa};
use crate::untrusted;
use serde_json::{Value, json};
use std::path::Path;

/// The file's name.
pub const FILE: &str = "preprocessor_config.json";
/// Pillow's number for bilinear interpolation.
const BILINEAR: u8 = 2;

/// Whether images are normalised as numbers from 0 to 1, which pixels become by a division by 255; else as they are.
pub fn is_of_pictures(normalization: &InputNormalization) -> bool {
    normalization.mean.iter().chain(&normalization.std).all(|number| (0.0..=1.0).contains(number))
}

/// The file's content for a model.
pub fn to_json(model: &VitNepa) -> Value {
    let side = model.architecture().image_size;
    let normalization = model.normalization();
    let is_of_pictures = is_of_pictures(&normalization);
    let InputNormalization { mean, std } = normalization;
    json!({
        "do_normalize": mean.iter().any(|m| *m != 0.0) || std.iter().any(|s| *s != 1.0),
        "do_rescale": is_of_pictures,
        "do_resize": true,
        "image_mean": mean,
        "image_processor_type": "ViTImageProcessorFast",
        "image_std": std,
        "resample": BILINEAR,
        "rescale_factor": 1.0 / 255.0,
        "size": { "height": side, "width": side },
    })
}

/// The normalisation that a file asks for, if there is such a file and it says.
pub fn read(path: &Path) -> Result<Option<InputNormalization>> {
    if !path.is_file() {
        return Ok(None);
    }
    let value = untrusted::read_json(path)?;
    if value["do_normalize"] == false {
        return Ok(Some(InputNormalization { mean: vec![0.0], std: vec![1.0] }));
    }
    let numbers = |key: &str| -> Result<Option<Vec<f64>>> {
        let found = match &value[key] {
            Value::Null => return Ok(None),
            Value::Array(items) => items.iter().map(Value::as_f64).collect(),
            one => one.as_f64().map(|n| vec![n]),
        };
        match found {
            Some(numbers) => Ok(Some(numbers)),
            None => bail_hint!(
                "{}: {key} is {}, expected a list of numbers", path.display(), value[key];
                "correct it, or remove the file: then 0.5 is taken, as in the reference"
            ),
        }
    };
    Ok(numbers("image_mean")?.zip(numbers("image_std")?).map(|(mean, std)| InputNormalization { mean, std }))
}
