//! How images are prepared for a model: `preprocessor_config.json` of transformers, or `pretrained_cfg` of timm.

use super::super::preprocessor;
use super::timm;
use crate::error::Result;
use crate::nn::InputNormalization;
use crate::untrusted;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Normalisation and size of a model's images.
pub struct Preparation {
    /// Mean and standard deviation by channel.
    pub normalization: InputNormalization,
    /// The content of `preprocessor_config.json`; none if only the normalisation is known.
    pub file: Option<Map<String, Value>>,
    /// What is done, in words, as far as it is known.
    pub words: String,
    /// The shorter side before the crop from its middle.
    pub resize: Option<i64>,
}

/// Reads it from the folder of a file of weights: from timm's configuration, or from the file of transformers. None if
/// neither says it.
pub(super) fn read(weights: &Path, of_timms: Option<&Map<String, Value>>) -> Result<Option<Preparation>> {
    let place = weights.with_file_name(preprocessor::FILE);
    if let Some(keys) = of_timms {
        return Ok(of_timm(timm::pretrained_cfg(keys)));
    }
    let Some(normalization) = preprocessor::read(&place)? else { return Ok(None) };
    let Value::Object(file) = untrusted::read_json(&place)? else { return Ok(None) };
    Ok(Some(Preparation { normalization, file: Some(file), words: String::new(), resize: None }))
}

/// In the words of transformers.
fn of_timm(cfg: &Map<String, Value>) -> Option<Preparation> {
    let numbers = |key: &str| -> Option<Vec<f64>> { cfg.get(key)?.as_array()?.iter().map(Value::as_f64).collect() };
    let (mean, std) = numbers("mean").zip(numbers("std"))?;
    let side = cfg.get("input_size").and_then(Value::as_array).and_then(|size| size.last()?.as_i64()).unwrap_or(224);
    let share =
        cfg.get("crop_pct").and_then(Value::as_f64).filter(|share| (0.1..=1.0).contains(share)).unwrap_or(0.875);
    let resample = if cfg.get("interpolation").and_then(Value::as_str) == Some("bilinear") { 2 } else { 3 };
    let file = json!({
        "crop_size": { "height": side, "width": side },
        "do_center_crop": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
        "image_mean": mean, "image_processor_type": "BitImageProcessor", "image_std": std,
        "resample": resample, "rescale_factor": 1.0 / 255.0,
        "size": { "shortest_edge": (side as f64 / share).floor() as i64 },
    });
    let Value::Object(file) = file else { unreachable!("a map") };
    let normalization = InputNormalization { mean, std };
    Some(Preparation { normalization, file: Some(file), words: String::new(), resize: None })
}

impl Preparation {
    /// Of which only the normalisation is known.
    pub(super) fn of_normalization(mean: &[f64], std: &[f64]) -> Self {
        let normalization = InputNormalization { mean: mean.to_vec(), std: std.to_vec() };
        Self { normalization, file: None, words: String::new(), resize: None }
    }

    /// For a model of images of `side` pixels: sizes in the same proportion. Where the image size was not asked for
    /// (`is_asked`), a source that prepares others is told.
    pub(super) fn at(mut self, side: i64, is_asked: bool, notes: &mut Vec<String>) -> Self {
        let Some(file) = &mut self.file else { return self };
        let number = |value: Option<&Value>, key: &str| value.and_then(|value| value.get(key)?.as_i64());
        let cropped = file.get("do_center_crop").and_then(Value::as_bool).unwrap_or(false);
        let size = file.get("size").cloned();
        let edge = number(size.as_ref(), "shortest_edge").or(number(size.as_ref(), "height"));
        let edge = edge.or(size.as_ref().and_then(Value::as_i64));
        let crop = file.get("crop_size").filter(|_| cropped).cloned();
        let crop = number(crop.as_ref(), "height").or(crop.as_ref().and_then(Value::as_i64));
        // A single number means both sides to the processors of ViT, DeiT and MAE, the shorter one to DINOv2's and CLIP's.
        let named = |key: &str| file.get(key).and_then(Value::as_str).unwrap_or_default();
        let by_vit = ["image_processor_type", "feature_extractor_type"]
            .iter()
            .any(|key| ["ViT", "DeiT"].iter().any(|of| named(key).starts_with(of)));
        let squashes = number(size.as_ref(), "height").is_some() || by_vit && size.as_ref().is_some_and(Value::is_i64);
        let own = crop.or(edge).filter(|own| (1..1 << 16).contains(own)).unwrap_or(side);
        if own != side && !is_asked {
            notes.push(format!(
                "its images are prepared at {own} x {own} pixels: --image-size {own} fits the model to them"
            ));
        }
        let scaled = |n: i64| (n.min(1 << 20) as f64 * side as f64 / own as f64).round() as i64;
        let interpolation = match file.get("resample").and_then(Value::as_i64) {
            Some(0) => "nearest",
            Some(1) => "Lanczos",
            Some(2) => "bilinear",
            Some(3) => "bicubic",
            _ => "resized",
        };
        let edge = scaled(edge.unwrap_or(own));
        let (size, words) = match squashes {
            true => (json!({ "height": edge, "width": edge }), format!("squashed to {edge} x {edge}, {interpolation}")),
            false => (json!({ "shortest_edge": edge }), format!("shorter side to {edge}, {interpolation}")),
        };
        file.insert("size".into(), size);
        self.words = words;
        if crop.is_some() {
            file.insert("crop_size".into(), json!({ "height": side, "width": side }));
            self.words += &format!(", then the middle {side} x {side}");
        }
        self.resize = (!squashes).then_some(edge);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_of_one_number_means_what_its_processor_takes_it_for() {
        let words = |file: Value| {
            let mut preparation = Preparation::of_normalization(&[0.5], &[0.5]);
            preparation.file = file.as_object().cloned();
            preparation.at(224, true, &mut Vec::new()).words
        };
        for (kind, told) in [
            ("ViTFeatureExtractor", "squashed to 224 x 224, bilinear"),
            ("DeiTImageProcessor", "squashed to 224 x 224, bilinear"),
            ("BitImageProcessor", "shorter side to 224, bilinear"),
        ] {
            for key in ["image_processor_type", "feature_extractor_type"] {
                assert_eq!(words(json!({ key: kind, "size": 224, "resample": 2 })), told);
            }
        }
        assert_eq!(words(json!({ "size": { "shortest_edge": 256 }, "resample": 3 })), "shorter side to 224, bicubic");
    }
}
