//! A ViT-NEPA under the names of timm's `Eva` (timm 1.0.31), whose rotary embedding of DINOv3 is NEPA's.

use super::taken::Taken;
use crate::bail_hint;
use crate::error::{Result, ensure};
use crate::nn::{Activation, VitNepaConfig};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// A model of timm's.
pub struct TimmModel {
    /// Its tensors, by timm's names.
    pub tensors: Vec<(String, Tensor)>,
    /// Arguments of `timm.models.eva.Eva`, but for `norm_layer`.
    pub args: Map<String, Value>,
    /// Where each of timm's tensors comes from, in words, in the order of the network.
    pub account: Vec<(String, String)>,
}

impl Taken {
    /// Several layers as one, their outputs one after the other.
    fn joined(&mut self, stem: &str, own: &[&str], timm: &str) -> Result<()> {
        for part in ["weight", "bias"] {
            let names: Vec<String> = own.iter().map(|name| format!("{stem}.{name}.{part}")).collect();
            if part == "weight" || names.iter().any(|name| self.left.contains_key(name)) {
                let parts: Vec<Tensor> = names.iter().map(|name| self.take(name)).collect::<Result<_>>()?;
                let from = format!("{stem}.{{{}}}.{part}, joined", own.join(", "));
                self.give(&format!("{timm}.{part}"), Tensor::f_cat(&parts, 0)?, &from);
            }
        }
        Ok(())
    }

    /// A norm over the head width, which timm always gives a weight and a bias.
    fn head_norm(&mut self, own: &str, timm: &str, width: i64) -> Result<()> {
        for (part, neutral) in [("weight", 1.0), ("bias", 0.0)] {
            let name = format!("{own}.{part}");
            let (tensor, from) = match self.left.remove(&name) {
                Some(tensor) => (tensor, name),
                None => {
                    let like = (Kind::Float, tch::Device::Cpu);
                    (Tensor::f_full([width], neutral, like)?, format!("{neutral}, since this norm has no {part}"))
                }
            };
            self.give(&format!("{timm}.{part}"), tensor, &from);
        }
        Ok(())
    }
}

/// What timm's `Eva` cannot compute.
fn refuse(what: &str) -> Result<()> {
    bail_hint!("timm's Eva has no {what}"; "export it as onnx, torch or hf")
}

fn check(config: &VitNepaConfig, classifies: bool) -> Result<()> {
    match (config.use_gated_mlp, config.hidden_act) {
        (false, Activation::Gelu) | (true, Activation::Silu) => {}
        (true, _) => refuse("gated mlp of gelu")?,
        (false, _) => refuse("plain mlp of silu")?,
    }
    if classifies && !config.add_pooling_layer {
        refuse("head on the last token; --part encoder leaves the head out")?;
    }
    let (width, mlp) = (config.hidden_size, config.mlp_size());
    let ratio = mlp as f64 / width as f64;
    ensure!((width as f64 * ratio) as i64 == mlp, "timm has no mlp {mlp} wide for a model {width} wide");
    Ok(())
}

/// The model that a configuration and all its tensors describe. Tensors that timm has no place for are an error.
pub fn to_timm(config: &VitNepaConfig, tensors: Vec<(String, Tensor)>) -> Result<TimmModel> {
    let plain = |name: String| name.strip_prefix("vit_nepa.").map(str::to_string).unwrap_or(name);
    let left: BTreeMap<String, Tensor> = tensors.into_iter().map(|(name, t)| (plain(name), t)).collect();
    let classifies = left.contains_key("classifier.weight");
    check(config, classifies)?;
    let mut taken = Taken::new("the model".into(), left);
    let token = taken.take("embeddings.cls_token")?;
    taken.give("cls_token", token, "embeddings.cls_token");
    taken.layer("embeddings.patch_embeddings.projection", "patch_embed.proj")?;
    for i in 0..config.num_hidden_layers {
        let (own, timm) = (format!("encoder.layer.{i}"), format!("blocks.{i}"));
        let attention = format!("{own}.attention.attention");
        taken.layer(&format!("{own}.layernorm_before"), &format!("{timm}.norm1"))?;
        taken.joined(&attention, &["query", "key", "value"], &format!("{timm}.attn.qkv"))?;
        if config.qk_norm {
            let width = config.hidden_size / config.num_attention_heads;
            for norm in ["q_norm", "k_norm"] {
                taken.head_norm(&format!("{attention}.{norm}"), &format!("{timm}.attn.{norm}"), width)?;
            }
        }
        taken.layer(&format!("{own}.attention.output.dense"), &format!("{timm}.attn.proj"))?;
        if config.layerscale_value.is_some() {
            for (from, to) in [("layer_scale.lambda1", "gamma_1"), ("output.layer_scale.lambda1", "gamma_2")] {
                let from = format!("{own}.{from}");
                let scale = taken.take(&from)?;
                taken.give(&format!("{timm}.{to}"), scale, &from);
            }
        }
        taken.layer(&format!("{own}.layernorm_after"), &format!("{timm}.norm2"))?;
        match config.use_gated_mlp {
            true => {
                taken.joined(&format!("{own}.intermediate"), &["gate_proj", "up_proj"], &format!("{timm}.mlp.fc1"))?
            }
            false => taken.layer(&format!("{own}.intermediate.up_proj"), &format!("{timm}.mlp.fc1"))?,
        }
        taken.layer(&format!("{own}.output.dense"), &format!("{timm}.mlp.fc2"))?;
    }
    taken.layer("layernorm", "norm")?;
    if classifies {
        taken.layer("fc_norm", "fc_norm")?;
        taken.layer("classifier", "head")?;
    }
    let Taken { left, tensors, account, .. } = taken;
    ensure!(
        left.is_empty(),
        "timm's Eva has no place for {}",
        left.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    );
    Ok(TimmModel { tensors, args: args(config, classifies), account })
}

fn args(config: &VitNepaConfig, classifies: bool) -> Map<String, Value> {
    let all = json!({
        "img_size": config.image_size, "patch_size": config.patch_size, "in_chans": config.num_channels,
        "num_classes": if classifies { config.num_labels } else { 0 }, "global_pool": "avg",
        "embed_dim": config.hidden_size, "depth": config.num_hidden_layers, "num_heads": config.num_attention_heads,
        "qkv_bias": config.qkv_bias, "qkv_fused": true, "qk_norm": config.qk_norm,
        "mlp_ratio": config.mlp_size() as f64 / config.hidden_size as f64, "swiglu_mlp": config.use_gated_mlp,
        "attn_type": "rope", "init_values": config.layerscale_value, "class_token": true, "num_reg_tokens": 0,
        "use_abs_pos_emb": false, "use_rot_pos_emb": config.rope_theta.is_some(), "rope_type": "dinov3",
        "rope_temperature": config.rope_theta.unwrap_or(100.0), "rope_rotate_half": true,
        "use_pre_transformer_norm": false, "use_post_transformer_norm": true, "use_fc_norm": classifies,
        "dynamic_img_size": false,
    });
    match all {
        Value::Object(args) => args,
        _ => unreachable!("a map"),
    }
}
