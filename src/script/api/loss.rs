//! Losses, and measures of collapse.

use crate::functions;
use crate::loss::{self, CrossEntropyOptions, NextEmbeddingOptions};
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Tensor, ok, read_options, tensors};
use rhai::{Array, Engine, Map};

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    let mut group = Group::namespace(reference, "loss", "Losses: scalars in float32 to call backward() on.");
    group.options::<NextEmbeddingOptions>("loss::next_embedding");
    group.options::<NextEmbeddingOptions>("loss::next_embedding_intermediate");
    group.options::<CrossEntropyOptions>("loss::cross_entropy");
    functions! { group;
        /// NEPA's loss (arXiv 2512.16922): −mean over batch and positions of cos(h_t, z_{t+1}), for
        /// predictions h and embeddings z, both [B, N, D]. No gradient flows through z.
        "next_embedding" (h: Tensor, z: Tensor) -> Tensor { ok(loss::next_embedding(&h, &z, &Default::default())?) }
        /// The same with options, as in the paper's ablations.
        "next_embedding" (h: Tensor, z: Tensor, options: Map) -> Tensor {
            ok(loss::next_embedding(&h, &z, &read_options("loss::next_embedding", &options)?)?)
        }
        /// The mean of next_embedding over the raw outputs of blocks 1 … L−1; `hidden_states` as
        /// `encode(images, #{ hidden_states: true })` gives them.
        "next_embedding_intermediate" (hidden_states: Array, z: Tensor) -> Tensor {
            let states = tensors(&hidden_states, "loss::next_embedding_intermediate")?;
            ok(loss::next_embedding_intermediate(&states, &z, &Default::default())?)
        }
        /// The same with options.
        "next_embedding_intermediate" (hidden_states: Array, z: Tensor, options: Map) -> Tensor {
            let states = tensors(&hidden_states, "loss::next_embedding_intermediate")?;
            let o = read_options("loss::next_embedding_intermediate", &options)?;
            ok(loss::next_embedding_intermediate(&states, &z, &o)?)
        }
        /// Mean cross-entropy of logits [B, C] against labels (int64 [B]) or probabilities (float [B, C]).
        "cross_entropy" (logits: Tensor, target: Tensor) -> Tensor {
            ok(loss::cross_entropy(&logits, &target, &Default::default())?)
        }
        /// The same with options.
        "cross_entropy" (logits: Tensor, target: Tensor, options: Map) -> Tensor {
            ok(loss::cross_entropy(&logits, &target, &read_options("loss::cross_entropy", &options)?)?)
        }
        /// How far the embeddings z [B, N, D] have collapsed, in three floats:
        /// `target_std`, √D × the mean over channels of the standard deviation, over images and positions, of the
        /// embeddings at unit length: 1 where they point everywhere alike, 0 where all are the same;
        /// `effective_rank`, exp of the entropy of the normalised singular values of the centred embeddings (Roy &
        /// Vetterli 2007): how many of the D directions they fill, of at most 1024 evenly spaced rows;
        /// `target_cosine`, the mean cosine of two different positions of one image: 1 where they are all the same.
        /// The first token, the class token, counts in none of them. No gradients. Takes about 0.2 s for [8, 257, 768] on
        /// one core of an AMD EPYC (Zen 3), nearly all for the rank, and 3 ms for [128, 17, 64].
        ///
        /// Example: `let collapse = loss::embedding_stats(model.encode(images).input_embedding);`
        "embedding_stats" (z: Tensor) -> Map {
            let stats = loss::embedding_stats(&z)?;
            Ok(Map::from([
                ("target_std".into(), stats.target_std.into()),
                ("effective_rank".into(), stats.effective_rank.into()),
                ("target_cosine".into(), stats.target_cosine.into()),
            ]))
        }
    }
    group.register(engine);
}
