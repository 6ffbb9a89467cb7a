//! Losses, and measures of collapse.

use crate::error::Result;
use crate::loss::{self, CrossEntropyOptions, NextEmbeddingOptions};
use crate::script::registry::Api;
use crate::script::types::handles;
use crate::script::values::Tensor;
use nepa_macros::functions;
use rhai::Map;
use std::rc::Rc;

pub fn register(api: &mut Api<'_>) {
    api.namespace("loss", "Losses: float32 scalars to call backward() on.", functions::register);
    api.methods::<EmbeddingStatsWork>("Statistics of embeddings that a GPU is computing.", methods::register);
}

/// What `embedding_stats_async` gives.
#[derive(Clone)]
pub struct EmbeddingStatsWork(Rc<loss::EmbeddingStatsWork>);

handles! { "EmbeddingStatsWork": EmbeddingStatsWork; }

fn stats_map(stats: &loss::EmbeddingStats) -> Map {
    Map::from([
        ("target_std".into(), stats.target_std.into()),
        ("effective_rank".into(), stats.effective_rank.into()),
        ("target_cosine".into(), stats.target_cosine.into()),
    ])
}

#[functions]
mod methods {
    use super::*;

    /// The statistics, as loss::embedding_stats gives them. Waits for a GPU if it must.
    pub fn wait(work: &EmbeddingStatsWork) -> Result<Map> {
        Ok(stats_map(&work.0.wait()?))
    }

    /// What it is, as text.
    pub fn to_string(_work: &EmbeddingStatsWork) -> String {
        "statistics of embeddings".into()
    }
}

#[functions]
mod functions {
    use super::*;

    /// NEPA's loss (arXiv 2512.16922): −mean over batch and positions of cos(h_t, z_{t+1}), for
    /// predictions h and embeddings z, both [B, N, D]. No gradient flows through z.
    pub fn next_embedding(h: &Tensor, z: &Tensor) -> Result<tch::Tensor> {
        loss::next_embedding(h, z, &Default::default())
    }

    /// NEPA's loss with options, as in the paper's ablations.
    #[script(name = "next_embedding")]
    pub fn next_embedding_with(h: &Tensor, z: &Tensor, options: NextEmbeddingOptions) -> Result<tch::Tensor> {
        loss::next_embedding(h, z, &options)
    }

    /// The mean of next_embedding over the raw outputs of blocks 1 … L−1; `hidden_states` as
    /// `encode(images, #{ hidden_states: true })` gives them. From a fork (github.com/csiki/nepa): neither the paper nor its
    /// authors' code has it.
    pub fn next_embedding_intermediate(hidden_states: Vec<tch::Tensor>, z: &Tensor) -> Result<tch::Tensor> {
        loss::next_embedding_intermediate(&hidden_states, z, &Default::default())
    }

    /// The mean of next_embedding over the raw outputs of blocks 1 … L−1, with options.
    #[script(name = "next_embedding_intermediate")]
    pub fn next_embedding_intermediate_with(
        hidden_states: Vec<tch::Tensor>,
        z: &Tensor,
        options: NextEmbeddingOptions,
    ) -> Result<tch::Tensor> {
        loss::next_embedding_intermediate(&hidden_states, z, &options)
    }

    /// Mean cross-entropy of logits [B, C] against labels (int64 [B]) or probabilities (float [B, C]). A label that is no
    /// class is an error; on a GPU, which then would have to be waited for in every step, it makes the loss NaN.
    pub fn cross_entropy(logits: &Tensor, target: &Tensor) -> Result<tch::Tensor> {
        loss::cross_entropy(logits, target, &Default::default())
    }

    /// Mean cross-entropy with label smoothing.
    #[script(name = "cross_entropy")]
    pub fn cross_entropy_with(logits: &Tensor, target: &Tensor, options: CrossEntropyOptions) -> Result<tch::Tensor> {
        loss::cross_entropy(logits, target, &options)
    }

    /// How far the embeddings z [B, N, D] have collapsed, in three floats:
    /// `target_std`, √D × the mean over channels of the standard deviation, over images and positions, of the
    /// normalised embeddings: 1 if their directions are spread evenly, 0 if all are the same;
    /// `effective_rank`, exp of the entropy of the normalised singular values of the centred embeddings (Roy &
    /// Vetterli 2007): how many of the D directions they fill, of at most 1024 evenly spaced rows;
    /// `target_cosine`, the mean cosine of two different positions of one image: 1 if they are all the same.
    /// All ignore the first token, the class token, unless `class_token` is false, and are NaN if an embedding is not
    /// finite. Gradients do not flow through them. Takes about 0.2 s for [8, 257, 768] on one core of an AMD EPYC (Zen 3), nearly all of it for the
    /// rank, and 3 ms for [128, 17, 64].
    ///
    /// Example: `let collapse = loss::embedding_stats(model.encode(images).input_embedding);`
    pub fn embedding_stats(z: &Tensor, #[keyword(true)] class_token: bool) -> Result<Map> {
        Ok(stats_map(&loss::embedding_stats(z, class_token)?))
    }

    /// Begins what embedding_stats does, which goes on beside what the host and a GPU do next: `wait()` gives the map.
    ///
    /// Example: `let stats = loss::embedding_stats_async(rand([2, 5, 8])); stats.wait().target_std > 0.0`
    pub fn embedding_stats_async(z: &Tensor, #[keyword(true)] class_token: bool) -> Result<EmbeddingStatsWork> {
        Ok(EmbeddingStatsWork(Rc::new(loss::EmbeddingStatsWork::begin(z, class_token)?)))
    }
}
