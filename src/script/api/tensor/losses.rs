//! Losses, as torch.nn.functional has them. The deprecated arguments size_average and reduce are left out.

use super::arguments::inner;
use crate::choices;
use crate::error::{Result, bail, ensure};
use crate::script::types::choice_arguments;
use crate::script::values::Tensor;
use crate::tensor::shape_text;
use nepa_macros::functions;

pub use functions::register;

choices! {
    /// What becomes of the losses of the elements.
    pub enum Reduction {
        /// Each by itself.
        None = "none",
        /// Their mean.
        Mean = "mean",
        /// Their sum.
        Sum = "sum",
    }
}

choices! {
    /// What becomes of the divergences of the elements.
    pub enum KlReduction {
        /// Each by itself.
        None = "none",
        /// Their mean.
        Mean = "mean",
        /// Their sum.
        Sum = "sum",
        /// Their sum, divided by the size of the batch.
        BatchMean = "batchmean",
    }
}

choice_arguments! { Reduction, KlReduction }

impl From<Reduction> for tch::Reduction {
    fn from(reduction: Reduction) -> Self {
        match reduction {
            Reduction::None => tch::Reduction::None,
            Reduction::Mean => tch::Reduction::Mean,
            Reduction::Sum => tch::Reduction::Sum,
        }
    }
}

#[functions]
mod functions {
    use super::*;

    /// Cross-entropy of logits [B, C] or [B, C, ...] and class indices (int64 [B] or [B, ...]) or probabilities of the
    /// logits' shape. `weight` [C] are factors of the classes; targets equal to `ignore_index` do not count.
    ///
    /// Example: `cross_entropy(zeros([2, 4]), tensor([0, 3])).exp().allclose(tensor(4.0))`
    pub fn cross_entropy(
        input: &Tensor,
        target: &Tensor,
        #[default(())] weight: Option<Tensor>,
        #[default(-100)] ignore_index: i64,
        #[default("mean")] reduction: Reduction,
        #[default(0.0)] label_smoothing: f64,
    ) -> Result<tch::Tensor> {
        ensure!(
            (0.0..=1.0).contains(&label_smoothing),
            "cross_entropy: `label_smoothing`: expected a number in 0 to 1, found {label_smoothing}"
        );
        let reduction = reduction.into();
        Ok(input.f_cross_entropy_loss(target, inner(&weight), reduction, ignore_index, label_smoothing)?)
    }

    /// The negative log-likelihood of class indices (int64 [B] or [B, ...]) under log-probabilities [B, C] or
    /// [B, C, ...], as log_softmax gives them.
    ///
    /// Example: `nll_loss(tensor([[-1.0, -2.0]]), tensor([1])).item() == 2.0`
    pub fn nll_loss(
        input: &Tensor,
        target: &Tensor,
        #[default(())] weight: Option<Tensor>,
        #[default(-100)] ignore_index: i64,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        Ok(input.f_nll_loss_nd(target, inner(&weight), reduction.into(), ignore_index)?)
    }

    /// Squared differences of two tensors of one shape.
    ///
    /// Example: `mse_loss(tensor([1.0, 2.0]), tensor([3.0, 2.0])).item() == 2.0`
    pub fn mse_loss(input: &Tensor, target: &Tensor, #[default("mean")] reduction: Reduction) -> Result<tch::Tensor> {
        alike("mse_loss", input, target)?;
        Ok(input.f_mse_loss(target, reduction.into())?)
    }

    /// Absolute differences of two tensors of one shape.
    ///
    /// Example: `l1_loss(tensor([1.0, 2.0]), tensor([3.0, 2.0])).item() == 1.0`
    pub fn l1_loss(input: &Tensor, target: &Tensor, #[default("mean")] reduction: Reduction) -> Result<tch::Tensor> {
        alike("l1_loss", input, target)?;
        Ok(input.f_l1_loss(target, reduction.into())?)
    }

    /// Squared differences / (2 · beta) below beta, absolute ones − beta / 2 above it.
    ///
    /// Example: `smooth_l1_loss(tensor([3.0]), tensor([0.0]), #{ beta: 2.0 }).item() == 2.0`
    pub fn smooth_l1_loss(
        input: &Tensor,
        target: &Tensor,
        #[default("mean")] reduction: Reduction,
        #[default(1.0)] beta: f64,
    ) -> Result<tch::Tensor> {
        alike("smooth_l1_loss", input, target)?;
        Ok(input.f_smooth_l1_loss(target, reduction.into(), beta)?)
    }

    /// Half the squared differences below delta, delta · (absolute ones − delta / 2) above it.
    ///
    /// Example: `huber_loss(tensor([3.0]), tensor([0.0]), #{ delta: 2.0 }).item() == 4.0`
    pub fn huber_loss(
        input: &Tensor,
        target: &Tensor,
        #[default("mean")] reduction: Reduction,
        #[default(1.0)] delta: f64,
    ) -> Result<tch::Tensor> {
        alike("huber_loss", input, target)?;
        Ok(input.f_huber_loss(target, reduction.into(), delta)?)
    }

    /// Cross-entropy of probabilities in 0 … 1 and targets in 0 … 1, element by element.
    ///
    /// Example: `binary_cross_entropy(tensor([0.5]), tensor([1.0])).exp().allclose(tensor(2.0))`
    pub fn binary_cross_entropy(
        input: &Tensor,
        target: &Tensor,
        #[default(())] weight: Option<Tensor>,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        alike("binary_cross_entropy", input, target)?;
        Ok(input.f_binary_cross_entropy(target, inner(&weight), reduction.into())?)
    }

    /// Cross-entropy of logits and targets in 0 … 1, element by element; `pos_weight` [C] are factors of positive ones.
    ///
    /// Example: `binary_cross_entropy_with_logits(zeros([3]), ones([3])).exp().allclose(tensor(2.0))`
    pub fn binary_cross_entropy_with_logits(
        input: &Tensor,
        target: &Tensor,
        #[default(())] weight: Option<Tensor>,
        #[default("mean")] reduction: Reduction,
        #[default(())] pos_weight: Option<Tensor>,
    ) -> Result<tch::Tensor> {
        alike("binary_cross_entropy_with_logits", input, target)?;
        let (weight, pos_weight) = (inner(&weight), inner(&pos_weight));
        Ok(input.f_binary_cross_entropy_with_logits(target, weight, pos_weight, reduction.into())?)
    }

    /// The Kullback-Leibler divergence of log-probabilities from target probabilities, or with `log_target` from
    /// log-probabilities. "batchmean" is the divergence by its definition, "mean" divides by all elements.
    ///
    /// Example: `kl_div(tensor([[0.5, 0.5]]).log(), tensor([[0.5, 0.5]]), "batchmean").item() == 0.0`
    pub fn kl_div(
        input: &Tensor,
        target: &Tensor,
        #[default("mean")] reduction: KlReduction,
        #[default(false)] log_target: bool,
    ) -> Result<tch::Tensor> {
        let summed = |reduction| input.f_kl_div(target, reduction, log_target);
        match reduction {
            KlReduction::None => Ok(summed(tch::Reduction::None)?),
            KlReduction::Mean => Ok(summed(tch::Reduction::Mean)?),
            KlReduction::Sum => Ok(summed(tch::Reduction::Sum)?),
            KlReduction::BatchMean => {
                ensure!(input.dim() > 0, "kl_div: expected a batch for batchmean, found {}", shape_text(input));
                Ok(summed(tch::Reduction::Sum)?.f_div_scalar(input.size()[0])?)
            }
        }
    }

    /// Cosines of the angles between vectors along a dimension.
    ///
    /// Example: `cosine_similarity(tensor([[1.0, 0.0]]), tensor([[0.0, 2.0]])).item() == 0.0`
    pub fn cosine_similarity(
        x1: &Tensor,
        x2: &Tensor,
        #[default(1)] dim: i64,
        #[default(1e-8)] eps: f64,
    ) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_cosine_similarity(x1, x2, dim, eps)?)
    }

    /// p-norms of the differences of vectors [..., D].
    ///
    /// Example: `pairwise_distance(tensor([[3.0, 0.0]]), tensor([[0.0, 4.0]])).allclose(tensor([5.0]))`
    pub fn pairwise_distance(
        x1: &Tensor,
        x2: &Tensor,
        #[default(2.0)] p: f64,
        #[default(1e-6)] eps: f64,
        #[default(false)] keepdim: bool,
    ) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_pairwise_distance(x1, x2, p, eps, keepdim)?)
    }

    /// 1 − cosine of pairs of vectors [B, D] with target 1, and max(0, cosine − margin) with target −1.
    ///
    /// Example: `cosine_embedding_loss(ones([1, 2]), ones([1, 2]), tensor([1])).abs().item() < 1e-6`
    pub fn cosine_embedding_loss(
        input1: &Tensor,
        input2: &Tensor,
        target: &Tensor,
        #[default(0.0)] margin: f64,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_cosine_embedding_loss(input1, input2, target, margin, reduction.into())?)
    }

    /// max(0, −target · (input1 − input2) + margin): 1 wants the first to be larger, −1 the second.
    ///
    /// Example: `margin_ranking_loss(tensor([1.0]), tensor([3.0]), tensor([1])).item() == 2.0`
    pub fn margin_ranking_loss(
        input1: &Tensor,
        input2: &Tensor,
        target: &Tensor,
        #[default(0.0)] margin: f64,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_margin_ranking_loss(input1, input2, target, margin, reduction.into())?)
    }

    /// Distances with target 1, and max(0, margin − distance) with target −1.
    ///
    /// Example: `hinge_embedding_loss(tensor([2.0]), tensor([1])).item() == 2.0`
    pub fn hinge_embedding_loss(
        input: &Tensor,
        target: &Tensor,
        #[default(1.0)] margin: f64,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        Ok(input.f_hinge_embedding_loss(target, margin, reduction.into())?)
    }

    /// max(0, ‖anchor − positive‖ − ‖anchor − negative‖ + margin), of vectors [B, D] and the p-norm; with `swap` the
    /// distance of the positive from the negative counts if it is smaller.
    ///
    /// Example: `triplet_margin_loss(zeros([1, 2]), zeros([1, 2]), ones([1, 2]) * 9.0).item() == 0.0`
    pub fn triplet_margin_loss(
        anchor: &Tensor,
        positive: &Tensor,
        negative: &Tensor,
        #[default(1.0)] margin: f64,
        #[default(2.0)] p: f64,
        #[default(1e-6)] eps: f64,
        #[default(false)] swap: bool,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        let reduction = reduction.into();
        Ok(tch::Tensor::f_triplet_margin_loss(anchor, positive, negative, margin, p, eps, swap, reduction)?)
    }

    /// ln(1 + e^(−target · input)), for targets 1 and −1.
    ///
    /// Example: `soft_margin_loss(zeros([2]), ones([2])).exp().allclose(tensor(2.0))`
    pub fn soft_margin_loss(
        input: &Tensor,
        target: &Tensor,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        Ok(input.f_soft_margin_loss(target, reduction.into())?)
    }

    /// Cross-entropy of logits [B, C] and several classes at once, targets 0 or 1 [B, C], averaged over the classes.
    ///
    /// Example: `multilabel_soft_margin_loss(zeros([1, 2]), ones([1, 2])).exp().allclose(tensor(2.0))`
    pub fn multilabel_soft_margin_loss(
        input: &Tensor,
        target: &Tensor,
        #[default(())] weight: Option<Tensor>,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        // With the very operations of PyTorch, so that half precision is rounded alike.
        let (yes, no) = (input.f_log_sigmoid()?, input.f_neg()?.f_log_sigmoid()?);
        let mut loss = target.f_mul(&yes)?.f_add(&target.f_rsub_scalar(1)?.f_mul(&no)?)?.f_neg()?;
        if let Some(weight) = weight {
            loss = loss.f_mul(&weight)?;
        }
        let classes = input.size().last().copied().unwrap_or(1);
        reduced(loss.f_sum_dim_intlist(-1, false, None)?.f_div_scalar(classes)?, reduction)
    }

    /// The negative log-likelihood of counts under Poisson distributions, whose rates are e^input, or input with
    /// `log_input: false`; `full` adds Stirling's term.
    ///
    /// Example: `poisson_nll_loss(tensor([0.0]), tensor([1.0])).item() == 1.0`
    pub fn poisson_nll_loss(
        input: &Tensor,
        target: &Tensor,
        #[default(true)] log_input: bool,
        #[default(false)] full: bool,
        #[default(1e-8)] eps: f64,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        Ok(input.f_poisson_nll_loss(target, log_input, full, eps, reduction.into())?)
    }

    /// The negative log-likelihood of targets under normal distributions of means `input` and variances `var`, taken to be
    /// at least eps; `full` adds the constant ½ ln 2π. Variances have the means' shape [..., N], or with one for a row
    /// [...] or [..., 1].
    ///
    /// Example: `gaussian_nll_loss(tensor([1.0]), tensor([3.0]), tensor([1.0])).item() == 2.0`
    pub fn gaussian_nll_loss(
        input: &Tensor,
        target: &Tensor,
        var: &Tensor,
        #[default(false)] full: bool,
        #[default(1e-6)] eps: f64,
        #[default("mean")] reduction: Reduction,
    ) -> Result<tch::Tensor> {
        // The floor of the variance takes no part in the gradient.
        let mut var = variances(input, var)?.f_alias_copy()?;
        let _ = tch::no_grad(|| var.f_clamp_min_(eps))?;
        let mut loss = input.f_sub(target)?.f_square()?.f_div(&var)?.f_add(&var.f_log()?)?.f_mul_scalar(0.5)?;
        if full {
            loss = loss.f_add_scalar(0.5 * (2.0 * std::f64::consts::PI).ln())?;
        }
        reduced(loss, reduction)
    }
}

/// The variances of gaussian_nll_loss, in a shape that broadcasts to that of its means.
fn variances(input: &tch::Tensor, var: &tch::Tensor) -> Result<tch::Tensor> {
    let (sizes, given) = (input.size(), var.size());
    let negative = var.f_lt(0)?.f_any()?.f_int64_value(&[])? != 0;
    ensure!(!negative, "gaussian_nll_loss: `var`: expected variances of at least 0, found a negative one");
    if sizes.split_last().is_some_and(|(_, rows)| rows == given) {
        return Ok(var.f_unsqueeze(-1)?);
    }
    let others = sizes.iter().zip(&given).filter(|(size, var)| size != var).map(|(_, var)| *var);
    if sizes == given || (sizes.len() == given.len() && others.sum::<i64>() == 1) {
        return Ok(var.shallow_clone());
    }
    bail!(
        "gaussian_nll_loss: `var`: expected the shape of the input {}, the same without its last dimension, or with one \
         dimension of size 1, found {}",
        shape_text(input),
        shape_text(var)
    )
}

fn reduced(loss: tch::Tensor, reduction: Reduction) -> Result<tch::Tensor> {
    match reduction {
        Reduction::None => Ok(loss),
        Reduction::Mean => Ok(loss.f_mean(None)?),
        Reduction::Sum => Ok(loss.f_sum(None)?),
    }
}

/// PyTorch warns and broadcasts, which is nearly always a fault.
fn alike(of: &str, input: &tch::Tensor, target: &tch::Tensor) -> Result<()> {
    ensure!(
        input.size() == target.size(),
        "{of}: expected input and target of one shape, found {} and {}",
        shape_text(input),
        shape_text(target)
    );
    Ok(())
}
