//! Losses: NEPA's next-embedding prediction and cross-entropy; and how far embeddings have collapsed.

use crate::error::{Result, ensure};
use crate::ffi::ReadBack;
use crate::options;
use crate::tensor::shape_text;
use tch::{Kind, Tensor};

options! {
    /// Variants of the NEPA loss.
    pub struct NextEmbeddingOptions {
        /// Whether position t is compared with the embedding at t + 1, or at t.
        shift: bool = true,
        /// Whether to stop gradients through the target embeddings.
        stop_grad: bool = true,
    }
}

/// −mean over batch and positions of cos(h_t, z_{t+1}) (arXiv 2512.16922), for predictions h and
/// embeddings z, both [B, N, D]. Norms are clamped at 1e-12; computed in float32.
pub fn next_embedding(h: &Tensor, z: &Tensor, options: &NextEmbeddingOptions) -> Result<Tensor> {
    ensure!(
        h.dim() == 3 && h.size() == z.size(),
        "the NEPA loss expects predictions and embeddings of one shape [B, N, D], found {} and {}",
        shape_text(h),
        shape_text(z)
    );
    let tokens = h.size()[1];
    let z = if options.stop_grad { z.f_detach()? } else { z.shallow_clone() };
    let (p, z) = if options.shift {
        ensure!(tokens > 1, "the shifted NEPA loss needs at least 2 tokens, found {}", shape_text(h));
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
        /// Fraction of the target spread evenly over all classes, in [0, 1].
        label_smoothing: f64 = 0.0,
    }
}

fn check_labels(labels: &Tensor, classes: i64) -> Result<()> {
    if labels.numel() == 0 {
        return Ok(());
    }
    let (low, high) = (labels.f_min()?.f_int64_value(&[])?, labels.f_max()?.f_int64_value(&[])?);
    ensure!(
        low >= 0 && high < classes,
        "cross_entropy: found labels {low}..={high}, but the logits have {classes} classes (0..={})",
        classes - 1
    );
    Ok(())
}

/// Mean cross-entropy of `logits` [B, C] against class indices (int64 [B]) or class probabilities
/// (float [B, C], soft targets), in float32. An index that is no class is an error, on a GPU NaN.
pub fn cross_entropy(logits: &Tensor, target: &Tensor, options: &CrossEntropyOptions) -> Result<Tensor> {
    ensure!(logits.dim() == 2, "cross_entropy expects logits [B, C], found {}", shape_text(logits));
    let (batch, classes) = (logits.size()[0], logits.size()[1]);
    let smoothing = options.label_smoothing;
    ensure!((0.0..=1.0).contains(&smoothing), "label_smoothing must lie in [0, 1], found {smoothing}");
    let log_probabilities = logits.f_log_softmax(-1, Kind::Float)?;
    let picked = if target.kind() == Kind::Int64 && target.size() == [batch] {
        let picked = |target: &Tensor| log_probabilities.f_gather(1, &target.f_unsqueeze(1)?, false)?.f_squeeze_dim(1);
        if target.device().is_cuda() {
            // Looking at the labels would make the host wait in every step; a kernel that meets one outside of its row
            // ends the process. So it gets another one, and the loss is NaN.
            let wrong = target.f_lt(0)?.f_logical_or(&target.f_ge(classes)?)?;
            picked(&target.f_clamp(0, classes - 1)?)?.f_masked_fill(&wrong, f64::NAN)?
        } else {
            check_labels(target, classes)?;
            picked(target)?
        }
    } else if target.is_floating_point() && target.size() == [batch, classes] {
        log_probabilities.f_mul(target)?.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)?
    } else {
        crate::error::bail!(
            "cross_entropy expects int64 labels [{batch}] or float probabilities [{batch}, {classes}], found {}",
            shape_text(target)
        );
    };
    let mut loss = picked.f_mean(Kind::Float)?.f_neg()?;
    if smoothing > 0.0 {
        let uniform = log_probabilities.f_mean(Kind::Float)?.f_neg()?;
        loss = loss.f_mul_scalar(1.0 - smoothing)?.f_add(&uniform.f_mul_scalar(smoothing)?)?;
    }
    Ok(loss)
}

/// How far embeddings have collapsed to one vector.
pub struct EmbeddingStats {
    /// √D times the mean, over the D channels, of the standard deviation of the unit-length embeddings over images and
    /// positions: 1 where they point evenly in all directions, 0 where all are equal.
    pub target_std: f64,
    /// exp of the entropy of the normalised singular values of the centred embeddings: how many directions they fill
    /// (Roy & Vetterli 2007), from 1 to D.
    pub effective_rank: f64,
    /// Mean cosine of the embeddings of two different positions of one image, over all pairs: 1 where an image's
    /// embeddings are all alike.
    pub target_cosine: f64,
}

/// Most rows that the effective rank is computed from.
const RANK_ROWS: i64 = 1024;

/// [`EmbeddingStats`] that a device is computing.
pub struct EmbeddingStatsWork {
    /// Whether all embeddings are finite, target_std, target_cosine, and below what a singular value is rounding; float64 [4].
    values: ReadBack,
    /// The Gram matrix of the centred rows, float64.
    gram: ReadBack,
}

impl EmbeddingStatsWork {
    /// Measures the embeddings `z` [B, N, D]; without their first token if that is a `class_token`, one learned vector, the
    /// same in every image. Without gradients. The host does not wait for a GPU.
    pub fn begin(z: &Tensor, class_token: bool) -> Result<Self> {
        let first = i64::from(class_token);
        ensure!(
            z.dim() == 3 && z.size()[0] > 0 && z.size()[1] >= first + 2,
            "embedding_stats expects embeddings [B, N, D] of {}at least 2 patches, found {}",
            if class_token { "a class token and " } else { "" },
            shape_text(z)
        );
        tch::no_grad(|| {
            let (images, patches, width) = (z.size()[0], z.size()[1] - first, z.size()[2]);
            let rounding = match z.kind() {
                Kind::BFloat16 => 2f64.powi(-8),
                Kind::Half => 2f64.powi(-11),
                _ => 2f64.powi(-23),
            };
            let z = z.f_narrow(1, first, patches)?.f_to_kind(Kind::Float)?;
            let finite = z.f_isfinite()?.f_all()?.f_to_kind(Kind::Double)?;

            let unit = normalize(&z, 1e-12)?;
            let spread = unit.f_std_dim([0i64, 1].as_slice(), false, false)?.f_mean(Kind::Double)?;
            let spread = spread.f_mul_scalar((width as f64).sqrt())?;

            // Over the pairs i ≠ j, Σ uᵢ·uⱼ = ‖Σ uᵢ‖² − Σ ‖uᵢ‖².
            let of_sum =
                unit.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?.f_square()?.f_sum(Kind::Double)?;
            let pairs = of_sum.f_sub(&unit.f_square()?.f_sum(Kind::Double)?)?;
            let cosine = pairs.f_div_scalar((images * patches * (patches - 1)) as f64)?;

            let rows = z.f_reshape([-1, width])?;
            let kept = rows.size()[0].min(RANK_ROWS);
            // Rows i · rows / kept: evenly spaced, none twice.
            let chosen = Tensor::f_arange(kept, (Kind::Int64, z.device()))?.f_mul_scalar(rows.size()[0])?;
            // The Gram matrix squares the singular values: float32 would drown those below 1/3000 of the largest in noise.
            let rows = rows.f_index_select(0, &chosen.f_div_scalar_mode(kept, "floor")?)?.f_to_kind(Kind::Double)?;
            // Equal vectors that differ by rounding alone span no direction.
            let floor = rows.f_square()?.f_sum(Kind::Double)?.f_sqrt()?.f_mul_scalar(rounding)?;
            let values = ReadBack::begin(&Tensor::f_stack(&[finite, spread, cosine, floor], 0)?)?;
            Ok(Self { values, gram: ReadBack::begin(&gram_of_centred(&rows)?)? })
        })
    }

    /// The statistics, for which the host waits if it must. NaN if an embedding is not finite.
    pub fn wait(&self) -> Result<EmbeddingStats> {
        let [finite, target_std, target_cosine, floor] = Vec::<f64>::try_from(self.values.wait()?)?[..] else {
            unreachable!("four values")
        };
        // The decomposition does not converge on NaN.
        if finite == 0.0 {
            return Ok(EmbeddingStats { target_std: f64::NAN, effective_rank: f64::NAN, target_cosine: f64::NAN });
        }
        Ok(EmbeddingStats { target_std, effective_rank: effective_rank(&self.gram.wait()?, floor)?, target_cosine })
    }
}

/// [`EmbeddingStatsWork`], waited for.
pub fn embedding_stats(z: &Tensor, class_token: bool) -> Result<EmbeddingStats> {
    EmbeddingStatsWork::begin(z, class_token)?.wait()
}

/// The Gram matrix of rows [R, D] around their mean, the smaller of the two.
fn gram_of_centred(rows: &Tensor) -> Result<Tensor> {
    let centred = rows.f_sub(&rows.f_mean_dim([0i64].as_slice(), true, Kind::Double)?)?;
    let turned = centred.f_transpose(0, 1)?;
    Ok(match centred.size()[0] < centred.size()[1] {
        true => centred.f_matmul(&turned)?,
        false => turned.f_matmul(&centred)?,
    })
}

/// The effective rank that a Gram matrix on the CPU tells, without singular values below `floor`.
fn effective_rank(gram: &Tensor, floor: f64) -> Result<f64> {
    let values = gram.f_linalg_eigvalsh("L")?.f_clamp_min(0.0)?.f_sqrt()?;
    let values = values.f_mul(&values.f_gt(floor)?)?;
    let weights = values.f_div(&values.f_sum(Kind::Double)?.f_clamp_min(f64::MIN_POSITIVE)?)?;
    let entropy = weights.f_special_entr()?.f_sum(Kind::Double)?;
    Ok(entropy.f_exp()?.f_double_value(&[])?)
}
