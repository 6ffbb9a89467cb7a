//! How images are prepared for a model: `preprocessor_config.json` of transformers, or `pretrained_cfg` of timm.

use super::super::CONFIG_FILE;
use super::super::preprocessor::{self, Fit};
use super::timm;
use crate::bail_hint;
use crate::error::{Result, did_you_mean, ensure};
use crate::nn::InputNormalization;
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
pub(super) fn read(
    weights: &Path,
    of_timms: Option<&Map<String, Value>>,
    notes: &mut Vec<String>,
) -> Result<Option<Preparation>> {
    if let Some(keys) = of_timms {
        let place = weights.with_file_name(CONFIG_FILE).display().to_string();
        let own = keys.get("nepa").and_then(|own| own.get("preprocessor")).and_then(Value::as_object);
        let own = own.map(|content| of_content(content.clone(), &format!("{place}: nepa.preprocessor"))).transpose()?;
        return match own.flatten() {
            Some(found) => Ok(Some(found)),
            None => of_timm(timm::pretrained_cfg(keys), &place, notes),
        };
    }
    let place = weights.with_file_name(preprocessor::FILE);
    match preprocessor::read(&place)? {
        Some(content) => of_content(content, &place.display().to_string()),
        None => Ok(None),
    }
}

/// The content of a `preprocessor_config.json`.
fn of_content(content: Map<String, Value>, place: &str) -> Result<Option<Preparation>> {
    let Some(normalization) = preprocessor::normalization(&content, place)? else { return Ok(None) };
    Ok(Some(Preparation { normalization, file: Some(content), words: String::new(), resize: None }))
}

/// timm's, in the words of transformers.
fn of_timm(cfg: &Map<String, Value>, place: &str, notes: &mut Vec<String>) -> Result<Option<Preparation>> {
    let numbers = |key: &str| -> Option<Vec<f64>> { cfg.get(key)?.as_array()?.iter().map(Value::as_f64).collect() };
    let Some((mean, std)) = numbers("mean").zip(numbers("std")) else { return Ok(None) };
    let text = |key: &str, usual: &'static str| cfg.get(key).and_then(Value::as_str).unwrap_or(usual).to_string();
    let side = cfg.get("input_size").and_then(Value::as_array).and_then(|size| size.last()?.as_i64()).unwrap_or(224);
    let share = cfg.get("crop_pct").and_then(Value::as_f64).filter(|share| *share != 0.0).unwrap_or(0.875);
    let interpolation = text("interpolation", "bicubic");
    let Some(resample) = preprocessor::INTERPOLATIONS.iter().position(|name| *name == interpolation) else {
        bail_hint!(
            "{place}: interpolation is \"{interpolation}\"{}", did_you_mean(&interpolation, preprocessor::INTERPOLATIONS);
            "expected one of {}", preprocessor::INTERPOLATIONS.join(", ")
        );
    };
    ensure!((0.1..=10.0).contains(&share), "{place}: crop_pct is {share}, expected a number from 0.1 to 10");
    let edge = (side as f64 / share).floor() as i64;
    let size = match text("crop_mode", "center").as_str() {
        "center" => json!({ "shortest_edge": edge }),
        "squash" => json!({ "height": edge, "width": edge }),
        "border" => {
            notes.push(
                "timm fits these images into a square with borders (crop_mode border), which no image processor does: \
                 preprocessor_config.json resizes the shorter side instead"
                    .into(),
            );
            json!({ "shortest_edge": edge })
        }
        other => bail_hint!(
            "{place}: crop_mode is \"{other}\"{}", did_you_mean(other, ["center", "squash", "border"]);
            "expected center, squash or border"
        ),
    };
    let file = json!({
        "crop_size": { "height": side, "width": side },
        "do_center_crop": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
        "image_mean": mean, "image_processor_type": "BitImageProcessor", "image_std": std,
        "resample": resample, "rescale_factor": 1.0 / 255.0,
        "size": size,
    });
    let Value::Object(file) = file else { unreachable!("a map") };
    of_content(file, place)
}

impl Preparation {
    /// Of which only the normalisation is known.
    pub(super) fn of_normalization(mean: &[f64], std: &[f64]) -> Self {
        let normalization = InputNormalization::judged(mean.to_vec(), std.to_vec());
        Self { normalization, file: None, words: String::new(), resize: None }
    }

    /// For a model of images of `side` pixels: sizes in the same proportion. Where the image size was not asked for
    /// (`is_asked`), a source that prepares others is told.
    pub(super) fn at(mut self, side: i64, is_asked: bool, notes: &mut Vec<String>) -> Self {
        let Some(file) = &mut self.file else { return self };
        let Fit { edge, squashes, crop, interpolation } = Fit::of(file);
        let own = crop.or(edge).filter(|own| (1..1 << 16).contains(own)).unwrap_or(side);
        if own != side && !is_asked {
            notes.push(format!(
                "its images are prepared at {own} x {own} pixels: --image-size {own} fits the model to them"
            ));
        }
        let scaled = |n: i64| (n.min(1 << 20) as f64 * side as f64 / own as f64).round() as i64;
        let interpolation = interpolation.unwrap_or("resized");
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

    #[test]
    fn timms_images_are_prepared_as_timm_prepares_them() {
        let read = |cfg: Value| {
            let mut cfg = cfg;
            (cfg["mean"], cfg["std"], cfg["input_size"]) =
                ([0.5; 3].to_vec().into(), [0.5; 3].to_vec().into(), json!([3, 224, 224]));
            let mut notes = Vec::new();
            let found = of_timm(cfg.as_object().unwrap(), "c.json", &mut notes)?.expect("it says mean and std");
            Ok::<_, crate::error::Error>((found.at(224, true, &mut Vec::new()).words, notes.len()))
        };
        for (cfg, words, notes) in [
            (json!({}), "shorter side to 256, bicubic, then the middle 224 x 224", 0),
            (
                json!({ "crop_pct": 0.9, "interpolation": "lanczos", "crop_mode": "squash" }),
                "squashed to 248 x 248, lanczos, then the middle 224 x 224",
                0,
            ),
            (
                json!({ "crop_pct": 1.15, "interpolation": "nearest" }),
                "shorter side to 194, nearest, then the middle 224 x 224",
                0,
            ),
            (
                json!({ "crop_pct": 1.0, "crop_mode": "border", "interpolation": "bilinear" }),
                "shorter side to 224, bilinear, then the middle 224 x 224",
                1,
            ),
        ] {
            assert_eq!(read(cfg.clone()).unwrap(), (words.to_string(), notes), "{cfg}");
        }
        for (cfg, says) in [
            (json!({ "interpolation": "random" }), "interpolation is \"random\""),
            (json!({ "crop_mode": "sqash" }), "did you mean `squash`?"),
            (json!({ "crop_pct": -1.0 }), "crop_pct is -1"),
        ] {
            let said = read(cfg).unwrap_err().to_string();
            assert!(said.starts_with("c.json: ") && said.contains(says), "{said}");
        }
    }
}
