//! Losses: NEPA's next-embedding prediction, and cross-entropy.

use crate::error::{Result, ensure};
use crate::nn::shape_words;
use crate::options;
use tch::{Kind, Tensor};

options! {
    /// Variants of the NEPA loss.
    pub struct NextEmbeddingOptions {
        /// Compare position t with the embedding at t + 1 (true) or at t (false).
        shift: bool = true,
        /// Whether no gradient flows through the target embeddings.
        stop_grad: bool = true,
    }
}

/// −mean over batch and positions of cos(h_t, z_{t+1}) (arXiv 2512.16922), for predictions h and
/// embeddings z, both [B, N, D]. Norms are clamped at 1e-12; computed in float32.
pub fn next_embedding(h: &Tensor, z: &Tensor, options: &NextEmbeddingOptions) -> Result<Tensor> {
    ensure!(
        h.dim() == 3 && h.size() == z.size(),
        "the NEPA loss expects predictions and embeddings of one shape [B, N, D], found {} and {}",
        shape_words(h),
        shape_words(z)
    );
    let tokens = h.size()[1];
    let z = if options.stop_grad { z.f_detach()? } else { z.shallow_clone() };
    let (p, z) = if options.shift {
        ensure!(tokens > 1, "the shifted NEPA loss needs at least 2 tokens, found {}", shape_words(h));
        (h.f_narrow(1, 0, tokens - 1)?, z.f_narrow(1, 1, tokens - 1)?)
    } else {
        (h.shallow_clone(), z)
    };
    let cosine = normalize(&p, 1e-12)?.f_mul(&normalize(&z, 1e-12)?)?;
    Ok(cosine.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?.f_mean(Kind::Float)?.f_neg()?)
}

/// The mean of [`next_embedding`] over the raw outputs of blocks 1 … L−1; `hidden_states` holds the
/// first block's input and every block's output, as `encode` gives them.
pub fn next_embedding_intermediate(
    hidden_states: &[Tensor],
    z: &Tensor,
    options: &NextEmbeddingOptions,
) -> Result<Tensor> {
    ensure!(
        hidden_states.len() >= 3,
        "the intermediate loss needs the hidden states of at least 2 blocks (3 tensors), found {}; \
         ask for them with encode(images, #{{ hidden_states: true }})",
        hidden_states.len()
    );
    let losses: Vec<Tensor> = hidden_states[1..hidden_states.len() - 1]
        .iter()
        .map(|h| next_embedding(h, z, options))
        .collect::<Result<_>>()?;
    Ok(Tensor::f_stack(&losses, 0)?.f_mean(Kind::Float)?)
}

/// x / max(‖x‖₂, eps) over the last dimension, in float32.
pub fn normalize(x: &Tensor, eps: f64) -> Result<Tensor> {
    let x = x.f_to_kind(Kind::Float)?;
    let norm = x.f_norm_scalaropt_dim(2.0, [-1i64], true)?;
    Ok(x.f_div(&norm.f_clamp_min(eps)?)?)
}

options! {
    /// How cross-entropy is computed.
    pub struct CrossEntropyOptions {
        /// Share of the target spread evenly over all classes, in [0, 1].
        label_smoothing: f64 = 0.0,
    }
}

/// Mean cross-entropy of `logits` [B, C] against class indices (int64 [B]) or class probabilities
/// (float [B, C], soft targets), in float32.
pub fn cross_entropy(logits: &Tensor, target: &Tensor, options: &CrossEntropyOptions) -> Result<Tensor> {
    ensure!(logits.dim() == 2, "cross_entropy expects logits [B, C], found {}", shape_words(logits));
    let (batch, classes) = (logits.size()[0], logits.size()[1]);
    let smoothing = options.label_smoothing;
    ensure!((0.0..=1.0).contains(&smoothing), "label_smoothing lies in [0, 1], found {smoothing}");
    let log_probabilities = logits.f_log_softmax(-1, Kind::Float)?;
    let picked = if target.kind() == Kind::Int64 && target.size() == [batch] {
        if batch > 0 {
            let (low, high) = (target.min().int64_value(&[]), target.max().int64_value(&[]));
            ensure!(
                low >= 0 && high < classes,
                "cross_entropy: labels lie in {low}..={high}, but the logits have {classes} classes (0..={})",
                classes - 1
            );
        }
        log_probabilities.f_gather(1, &target.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?
    } else if target.is_floating_point() && target.size() == [batch, classes] {
        log_probabilities.f_mul(target)?.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?
    } else {
        crate::error::bail!(
            "cross_entropy expects int64 labels [{batch}] or float probabilities [{batch}, {classes}], found {}",
            shape_words(target)
        );
    };
    let mut loss = picked.f_mean(Kind::Float)?.f_neg()?;
    if smoothing > 0.0 {
        let uniform = log_probabilities.f_mean(Kind::Float)?.f_neg()?;
        loss = loss.f_mul_scalar(1.0 - smoothing)?.f_add(&uniform.f_mul_scalar(smoothing)?)?;
    }
    Ok(loss)
}
