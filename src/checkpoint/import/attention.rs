//! Query, key and value: in one layer or three, with all biases or some, and their norms.

use super::network::Taking;
use crate::bail_hint;
use crate::error::{Error, Result};
use tch::Tensor;

/// What the three layers before attention are called here.
const QKV: [&str; 3] = ["query", "key", "value"];

/// A layer, with where its tensors come from, in words.
struct Layer {
    name: String,
    weight: (Tensor, String),
    bias: Option<(Tensor, String)>,
}

impl Taking<'_> {
    /// Query, key and value of a block, and their norms.
    pub(super) fn query_key_value(&mut self, from: &str, to: &str) -> Result<()> {
        let joined = self.dialect.joined.map(|name| format!("{from}.{name}"));
        let layers = match joined.filter(|name| self.taken.has(&format!("{name}.weight"))) {
            Some(name) => self.joined(from, &name)?,
            None => self.apart(from)?,
        };
        for (i, layer) in layers.iter().enumerate() {
            let said = self.facts.biases.query_key_value[i];
            if said.is_some_and(|said| said != layer.bias.is_some()) {
                let differs = match layer.bias {
                    Some(_) => "a bias, but its configuration says none",
                    None => "no bias, but its configuration says one",
                };
                bail_hint!(
                    "{}: `{}` has {differs}", self.taken.of, layer.name;
                    "the weights and their configuration do not belong together, or the file is not complete"
                );
            }
        }
        self.config.qkv_bias = layers.iter().any(|layer| layer.bias.is_some());
        let heads = self.config.num_attention_heads;
        for (i, Layer { name, weight, bias }) in layers.into_iter().enumerate() {
            let own = format!("{to}.{}", QKV[i]);
            let turns = self.facts.is_stable_pretraining && self.facts.rope_theta.is_some() && i < 2;
            let ordered = |t: Tensor| if turns { halves(&t, heads) } else { Ok(t) };
            let how = if turns { ", a head's channels reordered for rotation by halves" } else { "" };
            let zeros = weight.0.f_select(1, 0)?.f_zeros_like()?;
            let (weight, whence) = weight;
            self.taken.give(&format!("{own}.weight"), ordered(weight)?.f_contiguous()?, &format!("{whence}{how}"));
            match bias {
                Some((bias, whence)) => {
                    let bias = ordered(bias)?.f_contiguous()?;
                    self.taken.give(&format!("{own}.bias"), bias, &format!("{whence}{how}"));
                }
                None if self.config.qkv_bias => {
                    self.taken.give(&format!("{own}.bias"), zeros, &format!("0, since {name} has no bias"));
                }
                None => {}
            }
        }
        self.qk_norms(from, to)
    }

    /// Query, key and value from one layer, perhaps with the biases of query and value beside it.
    fn joined(&mut self, from: &str, name: &str) -> Result<Vec<Layer>> {
        let width = self.config.hidden_size;
        let weights = self.taken.shaped(&format!("{name}.weight"), &[3 * width, width])?.f_chunk(3, 0)?;
        let mut biases: [Option<(Tensor, String)>; 3] = [None, None, None];
        let joined = format!("{name}.bias");
        if self.taken.has(&joined) {
            let parts = self.taken.shaped(&joined, &[3 * width])?.f_chunk(3, 0)?;
            biases =
                [0, 1, 2].map(|i| Some((parts[i].shallow_clone(), format!("{joined}, the part of the {}", QKV[i]))));
        }
        for (i, apart) in [(0, "attn.q_bias"), (2, "attn.v_bias")] {
            let apart = format!("{from}.{apart}");
            if self.taken.has(&apart) {
                biases[i] = Some((self.taken.shaped(&apart, &[width])?, apart));
            }
        }
        let layer = |((weight, bias), which): ((Tensor, _), &str)| Layer {
            name: format!("{name}, the part of the {which}"),
            weight: (weight, format!("{name}.weight, the part of the {which}")),
            bias,
        };
        Ok(weights.into_iter().zip(biases).zip(QKV).map(layer).collect())
    }

    /// Query, key and value from a layer each.
    fn apart(&mut self, from: &str) -> Result<Vec<Layer>> {
        let width = self.config.hidden_size;
        let mut layers = Vec::new();
        for name in self.dialect.query_key_value {
            let name = format!("{from}.{name}");
            let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
            let weight = (self.taken.shaped(&weight, &[width, width])?, weight);
            let has_bias = self.taken.has(&bias);
            let bias =
                has_bias.then(|| Ok::<_, Error>((self.taken.shaped(&bias, &[width])?, bias.clone()))).transpose()?;
            layers.push(Layer { name, weight, bias });
        }
        Ok(layers)
    }

    /// Norms of queries and keys over the head width, of timm's names; stable-pretraining's have no tensors.
    fn qk_norms(&mut self, from: &str, to: &str) -> Result<()> {
        let size = self.config.hidden_size / self.config.num_attention_heads;
        if self.facts.is_stable_pretraining {
            (self.config.qk_norm, self.config.qk_norm_affine) = (true, false);
            return Ok(());
        }
        let there = self.taken.has(&format!("{from}.attn.q_norm.weight"));
        if there || self.config.qk_norm {
            self.config.qk_norm = true;
            self.config.qk_norm_bias = self.taken.has(&format!("{from}.attn.q_norm.bias"));
            for norm in ["q_norm", "k_norm"] {
                let has_bias = self.config.qk_norm_bias;
                self.layer_of(&format!("{from}.attn.{norm}"), &format!("{to}.{norm}"), &[size], Some(has_bias))?;
            }
        }
        Ok(())
    }
}

/// Rows of queries or keys, each head's even ones first, then its odd ones: a rotation of neighbours becomes one of halves.
fn halves(t: &Tensor, heads: i64) -> Result<Tensor> {
    let size = t.size();
    let pairs = size[0] / heads / 2;
    let mut split = vec![heads, pairs, 2];
    split.extend(&size[1..]);
    Ok(t.f_reshape(&split)?.f_transpose(1, 2)?.f_reshape(&size)?)
}
