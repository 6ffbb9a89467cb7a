//! Weights of a patch embedding for images of other channels.

use crate::bail_hint;
use crate::error::{Result, ensure};
use tch::{Kind, Tensor};

/// How the weight [D, C, P, P] of a patch embedding is called, in a whole model or in a backbone alone.
pub(super) const PATCH_EMBEDDING: &str = "embeddings.patch_embeddings.projection.weight";
const RGB: i64 = 3;

/// Tensors for images of other channels.
pub struct Adapted {
    /// All tensors, in their order.
    pub tensors: Vec<(String, Tensor)>,
    /// Those that were changed.
    pub adapted: Vec<String>,
}

/// Makes the patch embedding of a model of RGB images one of `channels` channels, as timm's `adapt_input_conv` does: for 1
/// channel the sum over red, green and blue; for n the weights of red, green, blue, red, … times 3 / n, so that what comes
/// out stays about as large. Computed in float32; the dtype stays. Weights of `channels` channels stay as they are.
pub fn adapt_channels(tensors: Vec<(String, Tensor)>, channels: i64) -> Result<Adapted> {
    ensure!(channels >= 1, "adapt_channels: expected at least 1 channel, found {channels}");
    let mut adapted = Vec::new();
    let mut one = |(name, weight): (String, Tensor)| -> Result<(String, Tensor)> {
        let is_embedding = name.strip_suffix(PATCH_EMBEDDING).is_some_and(|before| matches!(before, "" | "vit_nepa."));
        match weight.size()[..] {
            [_, from, _, _] if is_embedding && from != channels => {
                if from != RGB {
                    bail_hint!(
                        "adapt_channels: {name} is for images of {from} channels, and the model has {channels}";
                        "only weights for {RGB} channels (red, green, blue) can be adapted to others"
                    );
                }
                adapted.push(name.clone());
                let weight = of_channels(&weight, channels)?;
                Ok((name, weight))
            }
            _ => Ok((name, weight)),
        }
    };
    let tensors = tensors.into_iter().map(&mut one).collect::<Result<Vec<_>>>()?;
    Ok(Adapted { tensors, adapted })
}

fn of_channels(rgb: &Tensor, channels: i64) -> Result<Tensor> {
    let (kind, weight) = (rgb.kind(), rgb.f_detach()?.f_to_kind(Kind::Float)?);
    let weight = match channels {
        1 => weight.f_sum_dim_intlist([1].as_slice(), true, Kind::Float)?,
        n => {
            let repeated = weight.f_repeat([1, (n as u64).div_ceil(RGB as u64) as i64, 1, 1])?;
            repeated.f_narrow(1, 0, n)?.f_mul_scalar(RGB as f64 / n as f64)?
        }
    };
    Ok(weight.f_to_kind(kind)?.f_contiguous()?)
}
