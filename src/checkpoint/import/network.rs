//! A network's tensors, taken under the names of a dialect and given under those of a ViT-NEPA.

use super::super::taken::Taken;
use super::dialect::{Dialect, Mlp};
use super::positions::{self, Positions, Resampling};
use crate::bail_hint;
use crate::error::{Diagnostic, Error, Result, ensure};
use crate::nn::{Activation, VitNepaConfig};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use tch::Tensor;

/// What the tensors of a network do not say.
pub(super) struct Facts {
    pub heads: i64,
    pub eps: f64,
    /// None where there are no rotary angles.
    pub rope_theta: Option<f64>,
    /// Whether angles are stable-pretraining's: of patches' indices, turning neighbouring channels.
    pub is_stable_pretraining: bool,
    /// By default GELU, or SiLU of a gated mlp.
    pub act: Option<Activation>,
    pub is_causal: bool,
    /// Of the source; None where the position embeddings tell.
    pub image_size: Option<i64>,
    /// That asked for.
    pub wanted_size: Option<i64>,
    pub resampling: Resampling,
    /// Of what there are position embeddings, if it is known.
    pub positions: Option<Positions>,
    /// Which biases must be there; where it does not say, what is there counts.
    pub biases: Biases,
}

/// Whether layers have a bias, as far as a configuration says.
#[derive(Default)]
pub(super) struct Biases {
    pub query_key_value: [Option<bool>; 3],
    pub output: Option<bool>,
    pub mlp: Option<bool>,
}

/// A network that was taken.
pub(super) struct Network {
    pub config: VitNepaConfig,
    /// The keys of the script that builds it; none if it is a plain ViT-NEPA.
    pub keys: Map<String, Value>,
    /// Of the source.
    pub image_size: i64,
}

/// Takes the network's tensors.
pub(super) fn take(taken: &mut Taken, dialect: &'static Dialect, facts: &Facts) -> Result<Network> {
    let kernel = taken.peek(&format!("{}.weight", dialect.patches))?.size();
    let &[width, channels, patch, across] = &kernel[..] else {
        return Err(misshapen(taken, &format!("{}.weight", dialect.patches), "[width, channels, P, P]", &kernel));
    };
    ensure!(patch == across, "{}: patches of {patch} x {across} pixels, expected square ones", taken.of);
    ensure!(
        facts.heads > 0 && width % facts.heads == 0,
        "{}: {} heads do not divide the width {width}",
        taken.of,
        facts.heads
    );
    let config = VitNepaConfig {
        patch_size: patch,
        num_channels: channels,
        hidden_size: width,
        num_attention_heads: facts.heads,
        layer_norm_eps: facts.eps,
        rope_theta: facts.rope_theta,
        is_causal: facts.is_causal,
        layerscale_value: None,
        qk_norm: false,
        ..VitNepaConfig::default()
    };
    let mut taking = Taking { taken, dialect, facts, config, keys: Map::new() };
    let image_size = taking.embeddings()?;
    taking.blocks()?;
    taking.final_norm()?;
    let Taking { config, mut keys, .. } = taking;
    if !keys.is_empty() {
        keys.entry("position_embeddings").or_insert(json!(false));
    }
    Ok(Network { config, keys, image_size })
}

/// A network that is being taken.
pub(super) struct Taking<'a> {
    pub taken: &'a mut Taken,
    pub dialect: &'static Dialect,
    pub facts: &'a Facts,
    pub config: VitNepaConfig,
    keys: Map<String, Value>,
}

impl Taken {
    fn peek(&self, name: &str) -> Result<&Tensor> {
        match self.left.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail_hint!(
                "{} has no tensor `{name}`", self.of;
                "it is not complete, or not what its configuration or its other tensors say it is"
            ),
        }
    }

    /// A tensor of numbers as trained, of the shape that it must have.
    pub(super) fn shaped(&mut self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let tensor = self.peek(name)?;
        if tensor.size() != shape {
            return Err(misshapen(self, name, &format!("{shape:?}"), &tensor.size()));
        }
        self.float(name)
    }

    fn float(&mut self, name: &str) -> Result<Tensor> {
        let tensor = self.peek(name)?;
        if !tensor.is_floating_point() {
            bail_hint!(
                "{}: the tensor `{name}` is {}: weights that were quantised are not read", self.of,
                crate::tensor::shape_text(tensor);
                "import the model as it was before, in float32, bfloat16 or float16"
            );
        }
        self.take(name)
    }
}

/// How the names of blocks begin, and how many there are.
pub(super) fn count_blocks(taken: &Taken, dialect: &Dialect) -> Result<(String, i64)> {
    let start = format!("{}.", dialect.blocks);
    let number = |name: &String| name.strip_prefix(&start)?.split('.').next()?.parse::<i64>().ok();
    let count = taken.left.keys().filter_map(number).max().map_or(0, |last| last.saturating_add(1));
    ensure!(count > 0, "{} is no ViT: it has no tensors such as `{start}0.…`", taken.of);
    Ok((start, count))
}

fn misshapen(taken: &Taken, name: &str, expected: &str, found: &[i64]) -> Error {
    let message = format!("{}: the tensor `{name}` is {found:?}, expected {expected}", taken.of);
    let hint = "the weights and their configuration do not belong together, or it is another kind of model";
    Diagnostic::new(message).hint(hint).into()
}

impl Taking<'_> {
    /// Patch embedding, class token, registers and positions. Returns the image size of the source.
    fn embeddings(&mut self) -> Result<i64> {
        let (width, patch) = (self.config.hidden_size, self.config.patch_size);
        let names = self.dialect;
        let kernel = [width, self.config.num_channels, patch, patch];
        let to = "vit_nepa.embeddings.patch_embeddings.projection";
        self.layer_of(names.patches, to, &kernel, Some(true))?;
        let has_class = self.taken.has(names.class_token);
        if has_class {
            self.one(names.class_token, "vit_nepa.embeddings.cls_token", &[1, 1, width])?;
        }
        let mut registers = None;
        if let Some(name) = names.registers.iter().find(|name| self.taken.has(name)) {
            let count = self.taken.peek(name)?.size().get(1).copied().unwrap_or(0);
            registers = Some((count, self.taken.shaped(name, &[1, count, width])?, *name)).filter(|r| r.0 > 0);
        }
        let count = registers.as_ref().map_or(0, |(count, ..)| *count);
        let has_positions = self.taken.has(names.positions);
        let mut of_registers = None;
        let image_size = match has_positions {
            true => {
                let (size, rows) = self.positions(has_class, count)?;
                of_registers = rows;
                size
            }
            false => match self.facts.image_size.or(self.facts.wanted_size) {
                Some(size) => size,
                None => bail_hint!(
                    "{}: its tensors do not say for which image size it is", self.taken.of; "--image-size says it"
                ),
            },
        };
        self.config.image_size = self.facts.wanted_size.unwrap_or(image_size);
        if let Some((_, tokens, name)) = registers {
            let (tokens, from) = match of_registers {
                Some(rows) => {
                    let from = format!("{name} + their rows of {}", names.positions);
                    (tokens.f_add(&rows)?, from)
                }
                None => (tokens, name.to_string()),
            };
            self.taken.give("vit_nepa.encoder.registers", tokens, &from);
            self.keys.insert("registers".into(), json!(count));
        }
        let mut key = |name: &str, value: Value| drop(self.keys.insert(name.into(), value));
        if !has_class {
            key("class_token", json!(false));
        }
        if has_positions {
            key("position_embeddings", json!(true));
        }
        if self.facts.is_stable_pretraining && self.facts.rope_theta.is_some() {
            key("rotary_positions", json!("indices"));
        }
        Ok(image_size)
    }

    /// The position embeddings, for the class token (0 if they are of patches alone) and the patches. Returns the image
    /// size that they are for, and those of registers.
    fn positions(&mut self, has_class: bool, registers: i64) -> Result<(i64, Option<Tensor>)> {
        let (width, patch, name) = (self.config.hidden_size, self.config.patch_size, self.dialect.positions);
        let all = self.taken.float(name)?;
        let prefix = i64::from(has_class);
        let found = all.size();
        let rows = match found[..] {
            [1, rows, w] if w == width => rows,
            _ => return Err(misshapen(self.taken, name, &format!("[1, positions, {width}]"), &found)),
        };
        // Of patches alone, with the class token, or with the registers too.
        let given = self.facts.image_size.map(|size| size / patch);
        let possible = match self.facts.positions {
            Some(Positions::OfPatches) => vec![0],
            Some(Positions::OfAll) => vec![prefix + registers],
            None => BTreeSet::from([0, prefix, prefix + registers]).into_iter().collect(),
        };
        let fits = possible.into_iter().filter_map(|before| Some((before, positions::side(rows - before)?)));
        let fits: Vec<(i64, i64)> = fits.filter(|(_, side)| given.is_none_or(|given| given == *side)).collect();
        let (before, side) = match fits[..] {
            [only] => only,
            [] => {
                let grid = given.map_or("a square of patches".to_string(), |side| format!("{side} x {side} patches"));
                return Err(misshapen(self.taken, name, &format!("as many positions as {grid} have"), &found));
            }
            [(_, one), (_, another), ..] => bail_hint!(
                "{}: {rows} positions may be those of {one} x {one} patches, or of {another} x {another} with others before \
                 them", self.taken.of;
                "nothing beside the weights says which; with the model's config.json (no_embed_class or img_size) it is known"
            ),
        };
        let image_size = side * patch;
        let wanted = self.facts.wanted_size.unwrap_or(image_size);
        let mut patches = all.f_narrow(1, before, rows - before)?;
        let mut from = name.to_string();
        if wanted / patch != side {
            patches = positions::resampled(&patches, side, wanted / patch, self.facts.resampling)?;
            let how = self.facts.resampling.words();
            from = format!("{from}, from {side} x {side} to {0} x {0} patches, {how}", wanted / patch);
        }
        if has_class {
            let own = match before {
                0 => {
                    from += ", and 0 for the class token, which has none";
                    patches.f_narrow(1, 0, 1)?.f_zeros_like()?
                }
                _ => all.f_narrow(1, 0, 1)?,
            };
            patches = Tensor::f_cat(&[own, patches], 1)?;
        }
        if before > prefix {
            from += ", without those of the registers";
        }
        self.taken.give("vit_nepa.embeddings.position_embeddings", patches.f_contiguous()?, &from);
        let of_registers = (before > prefix).then(|| all.f_narrow(1, prefix, registers)).transpose()?;
        Ok((image_size, of_registers))
    }

    fn blocks(&mut self) -> Result<()> {
        let inner = if self.keys.contains_key("registers") { "blocks.layer" } else { "layer" };
        let (start, count) = count_blocks(self.taken, self.dialect)?;
        let mut known = None;
        for i in 0..count {
            let (from, to) = (format!("{start}{i}"), format!("vit_nepa.encoder.{inner}.{i}"));
            self.block(&from, &to)?;
            let kind = (self.config.mlp_size(), self.config.use_gated_mlp);
            ensure!(
                *known.get_or_insert(kind) == kind,
                "{}: the mlp of block {i} differs from those before it, expected blocks that are alike",
                self.taken.of
            );
        }
        self.config.num_hidden_layers = count;
        Ok(())
    }

    fn block(&mut self, from: &str, to: &str) -> Result<()> {
        let (width, names) = (self.config.hidden_size, self.dialect);
        let at = |name: &str| format!("{from}.{name}");
        self.layer_of(&at(names.norms[0]), &format!("{to}.layernorm_before"), &[width], Some(true))?;
        self.query_key_value(from, &format!("{to}.attention.attention"))?;
        let output = format!("{to}.attention.output.dense");
        self.layer_of(&at(names.output), &output, &[width, width], self.facts.biases.output.or(Some(true)))?;
        for (i, own) in ["layer_scale", "output.layer_scale"].into_iter().enumerate() {
            let there = names.scales[i].iter().find(|name| self.taken.has(&at(name)));
            if let Some(name) = there.or(names.scales[i].first().filter(|_| self.config.layerscale_value.is_some())) {
                self.one(&at(name), &format!("{to}.{own}.lambda1"), &[width])?;
                self.config.layerscale_value = VitNepaConfig::default().layerscale_value;
            }
        }
        self.layer_of(&at(names.norms[1]), &format!("{to}.layernorm_after"), &[width], Some(true))?;
        self.mlp(from, to)
    }

    fn mlp(&mut self, from: &str, to: &str) -> Result<()> {
        let (width, names) = (self.config.hidden_size, self.dialect);
        let is_there = |mlp: &&Mlp| self.taken.has(&format!("{from}.{}.weight", mlp.first()));
        let mlp = names.mlps.iter().find(is_there).or(names.mlps.last()).expect("each has one");
        let first = format!("{from}.{}", mlp.first());
        let down = format!("{from}.{}", mlp.down());
        let inner = self.taken.peek(&format!("{down}.weight"))?.size().get(1).copied().unwrap_or(0);
        self.taken.peek(&format!("{first}.weight"))?;
        let own = format!("{to}.intermediate");
        let bias = self.facts.biases.mlp;
        self.config.intermediate_size = Some(inner);
        self.config.use_gated_mlp = match mlp {
            Mlp::Plain { .. } => {
                self.layer_of(&first, &format!("{own}.up_proj"), &[inner, width], bias)?;
                false
            }
            Mlp::Gated { up, .. } => {
                self.layer_of(&first, &format!("{own}.gate_proj"), &[inner, width], bias)?;
                self.layer_of(&format!("{from}.{up}"), &format!("{own}.up_proj"), &[inner, width], bias)?;
                true
            }
            Mlp::Packed { .. } => self.packed(&first, &own, inner, bias)?,
        };
        self.layer_of(&down, &format!("{to}.output.dense"), &[width, inner], bias)?;
        let usual = if self.config.use_gated_mlp { Activation::Silu } else { Activation::Gelu };
        self.config.hidden_act = self.facts.act.unwrap_or(usual);
        Ok(())
    }

    /// Gate and up in one layer, or a plain layer of the same name. Returns whether it is gated.
    fn packed(&mut self, name: &str, own: &str, inner: i64, bias: Option<bool>) -> Result<bool> {
        let width = self.config.hidden_size;
        let rows = self.taken.peek(&format!("{name}.weight"))?.size().first().copied().unwrap_or(0);
        if inner.checked_mul(2) != Some(rows) {
            self.layer_of(name, &format!("{own}.up_proj"), &[inner, width], bias)?;
            return Ok(false);
        }
        for (part, shape) in [("weight", vec![rows, width]), ("bias", vec![rows])] {
            let from = format!("{name}.{part}");
            let both = match part == "weight" || bias != Some(false) {
                true => self.taken.shaped(&from, &shape)?,
                false => self.taken.peek(&format!("{name}.weight"))?.f_select(1, 0)?.f_zeros_like()?,
            };
            for (i, half) in ["gate", "up"].into_iter().enumerate() {
                let tensor = both.f_narrow(0, i as i64 * inner, inner)?.f_contiguous()?;
                let which = if i == 0 { "first" } else { "second" };
                self.taken.give(&format!("{own}.{half}_proj.{part}"), tensor, &format!("{from}, the {which} half"));
            }
        }
        Ok(true)
    }

    fn final_norm(&mut self) -> Result<()> {
        let (width, name) = (self.config.hidden_size, self.dialect.norm);
        match self.taken.has(&format!("{name}.weight")) {
            true => self.layer_of(name, "vit_nepa.layernorm", &[width], Some(true)),
            // Then the norm comes after pooling.
            false if self.taken.has("fc_norm.weight") => {
                self.keys.insert("final_norm".into(), json!(false));
                Ok(())
            }
            false => self.taken.peek(&format!("{name}.weight")).map(|_| ()),
        }
    }

    /// A tensor as it is.
    fn one(&mut self, from: &str, to: &str, shape: &[i64]) -> Result<()> {
        let tensor = self.taken.shaped(from, shape)?;
        self.taken.give(to, tensor, from);
        Ok(())
    }

    /// Weight and bias; where it may lack the bias and does, zeros. `has_bias` is what a configuration says.
    pub(super) fn layer_of(&mut self, from: &str, to: &str, shape: &[i64], has_bias: Option<bool>) -> Result<()> {
        let weight = self.taken.shaped(&format!("{from}.weight"), shape)?;
        let kind = weight.kind();
        self.taken.give(&format!("{to}.weight"), weight, &format!("{from}.weight"));
        let bias = format!("{from}.bias");
        if has_bias == Some(true) || has_bias.is_none() && self.taken.has(&bias) {
            self.one(&bias, &format!("{to}.bias"), &shape[..1])
        } else if !to.ends_with("_norm") {
            let zeros = Tensor::f_zeros([shape[0]], (kind, tch::Device::Cpu))?;
            self.taken.give(&format!("{to}.bias"), zeros, &format!("0, since {from} has no bias"));
            Ok(())
        } else {
            Ok(())
        }
    }
}
