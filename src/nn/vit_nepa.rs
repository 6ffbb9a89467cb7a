//! The whole model: patch embedding, class token, blocks, final norm and, for classification, a
//! head (arXiv 2512.16922; names of the reference's checkpoints).

use super::blocks::square_side;
use super::{
    Architecture, Blocks, ClassToken, Classifier, Context, LayerNorm, Module, ModuleRef, ModuleVisitor, PatchEmbed,
    Taps,
};
use crate::bail_hint;
use crate::error::{Context as _, Result, bail, ensure};
use crate::tensor::shape_text;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// A caller's own modules in place of built-in ones.
#[derive(Default)]
pub struct VitNepaOverrides {
    /// Images [B, C, S, S] -> tokens [B, T, D].
    pub patch_embeddings: Option<ModuleRef>,
    /// Tokens [B, T + 1, D] -> [B, T + 1, D].
    pub encoder: Option<ModuleRef>,
}

/// What a forward pass returns besides its final output.
#[derive(Default)]
pub struct Wanted {
    /// What the first block sees and each block's raw output.
    pub hidden_states: bool,
    /// Attention probabilities of each block.
    pub attentions: bool,
    /// How many blocks are computed; `None` means all.
    pub blocks: Option<usize>,
}

/// Everything that a forward pass gives.
pub struct Output {
    /// z: class token and patch embeddings before the blocks, [B, N, D].
    pub input_embedding: Tensor,
    /// h: the final norm's output, [B, N, D], of the last block that was computed.
    pub last_hidden_state: Tensor,
    /// What the first block sees and each block's raw output, where asked for.
    pub hidden_states: Vec<Tensor>,
    /// Attention probabilities of each block [B, H, N, N], where asked for.
    pub attentions: Vec<Tensor>,
    /// [B, num_labels], of models with a head.
    pub logits: Option<Tensor>,
}

/// A ViT-NEPA, for pretraining (`num_labels` 0) or classification.
pub struct VitNepa {
    architecture: Architecture,
    patch_embeddings: ModuleRef,
    class_token: ClassToken,
    encoder: ModuleRef,
    layernorm: LayerNorm,
    head: Option<Classifier>,
    /// Keys of the `config.json` it came from that say nothing about the network (class names, …).
    generic: Map<String, Value>,
    normalization: RefCell<InputNormalization>,
}

/// How pixels in [0, 1] become a model's input: (x − mean) / std, with a value for each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct InputNormalization {
    /// What is subtracted.
    pub mean: Vec<f64>,
    /// What the result is divided by.
    pub std: Vec<f64>,
}

impl VitNepa {
    /// A model with fresh weights; `own` modules stand in for built-in ones.
    pub fn new(architecture: &Architecture, own: VitNepaOverrides) -> Result<Self> {
        Self::with_generic(architecture, own, Map::new())
    }

    /// A model that keeps the generic keys of the `config.json` that it comes from.
    pub fn with_generic(
        architecture: &Architecture,
        own: VitNepaOverrides,
        generic: Map<String, Value>,
    ) -> Result<Self> {
        let (d, eps) = (architecture.hidden_size, architecture.layer_norm_eps);
        let channels = architecture.num_channels as usize;
        Ok(Self {
            patch_embeddings: match own.patch_embeddings {
                Some(module) => module,
                None => Rc::new(PatchEmbed::new(architecture)?),
            },
            class_token: ClassToken::new(d, architecture.initializer_range)?,
            encoder: match own.encoder {
                Some(module) => module,
                None => Rc::new(Blocks::new(architecture, None, false)?),
            },
            layernorm: LayerNorm::with_eps(d, eps)?,
            head: (architecture.num_labels > 0).then(|| Classifier::new(architecture)).transpose()?,
            architecture: architecture.clone(),
            generic,
            normalization: RefCell::new(InputNormalization { mean: vec![0.5; channels], std: vec![0.5; channels] }),
        })
    }

    /// What it was made from.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Keys of the `config.json` it came from that say nothing about the network.
    pub fn generic(&self) -> &Map<String, Value> {
        &self.generic
    }

    /// How the images that it was trained on were normalised; before it is told, by 0.5 and 0.5, as in the reference.
    pub fn normalization(&self) -> InputNormalization {
        self.normalization.borrow().clone()
    }

    /// Sets how its images are normalised; a single value counts for all channels, and equal ones for any number.
    pub fn set_normalization(&self, mut normalization: InputNormalization) -> Result<()> {
        let channels = self.architecture.num_channels as usize;
        for (name, values) in [("mean", &mut normalization.mean), ("std", &mut normalization.std)] {
            if let [first, rest @ ..] = &values[..]
                && rest.iter().all(|other| other == first)
            {
                *values = vec![*first; channels];
            }
            ensure!(values.len() == channels, "{name}: expected {channels} numbers, found {values:?}");
        }
        self.normalization.replace(normalization);
        Ok(())
    }

    /// The forward pass of `images` [B, C, S, S] with all its outputs. The blocks see zeros in place of patches that
    /// `input_mask`, bool [B, T], marks; z keeps them. With fewer than all blocks there are no logits.
    pub fn encode(&self, images: &Tensor, input_mask: Option<&Tensor>, wanted: &Wanted) -> Result<Output> {
        let layers = self.architecture.num_hidden_layers;
        if let Some(blocks) = wanted.blocks
            && blocks as i64 > layers
        {
            bail!("blocks: expected 0 to {layers}, the blocks of this model, found {blocks}");
        }
        let taps = Rc::new(Taps { want_attentions: wanted.attentions, ..Default::default() });
        let mut cx = Context {
            grid: self.patch_embeddings.grid(images),
            taps: (wanted.hidden_states || wanted.attentions || wanted.blocks.is_some()).then(|| taps.clone()),
            blocks: wanted.blocks,
            ..Default::default()
        };
        let patches = self.patch_embeddings.forward(images, &cx).context("in embeddings")?;
        if cx.grid.is_none() && self.architecture.rope_theta.is_some() {
            let count = patches.size().get(1).copied().unwrap_or(0);
            match square_side(count) {
                Some(side) => cx.grid = Some((side, side)),
                None => bail_hint!(
                    "the patch embedding gives {count} tokens ({}), which do not form a square grid",
                    shape_text(&patches);
                    "make it give a square number of tokens, or switch rotary embedding off with rope_theta: ()"
                ),
            }
        }
        let input_embedding = self.class_token.forward(&patches, &cx).context("in embeddings")?;
        let seen = match input_mask {
            Some(mask) => self.class_token.forward(&masked(&patches, mask)?, &cx).context("in embeddings")?,
            None => input_embedding.shallow_clone(),
        };
        let encoded = self.encoder.forward(&seen, &cx).context("in encoder")?;
        let computed = taps.hidden_states.borrow().len();
        if let Some(blocks) = wanted.blocks
            && computed != blocks + 1
        {
            bail!(
                "blocks: {} cannot stop after block {blocks}: it gave {computed} hidden states, expected {}",
                self.encoder.describe(),
                blocks + 1
            );
        }
        let last_hidden_state = self.layernorm.forward(&encoded, &cx)?;
        let head = self.head.as_ref().filter(|_| wanted.blocks.is_none_or(|blocks| blocks as i64 == layers));
        let logits = head.map(|head| head.forward(&last_hidden_state, &cx)).transpose()?;
        Ok(Output {
            input_embedding,
            last_hidden_state,
            hidden_states: if wanted.hidden_states { taps.hidden_states.take() } else { Vec::new() },
            attentions: taps.attentions.take(),
            logits,
        })
    }
}

/// Patches [B, T, D] with zeros where the mask [B, T] holds.
fn masked(patches: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let size = patches.size();
    ensure!(
        mask.kind() == Kind::Bool && mask.size() == size[..2],
        "input_mask: expected [{}, {}] bool, one value a patch, found {}",
        size[0],
        size[1],
        shape_text(mask)
    );
    Ok(patches.f_masked_fill(&mask.f_to_device(patches.device())?.f_unsqueeze(-1)?, 0.0)?)
}

impl Module for VitNepa {
    fn describe(&self) -> String {
        let c = &self.architecture;
        let head = if c.num_labels > 0 { format!(", {} labels", c.num_labels) } else { String::new() };
        format!(
            "vit_nepa({}² / {}, {} x {}, {} heads{head})",
            c.image_size, c.patch_size, c.num_hidden_layers, c.hidden_size, c.num_attention_heads
        )
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.child("vit_nepa.embeddings", &self.class_token);
        visitor.child("vit_nepa.embeddings.patch_embeddings", self.patch_embeddings.as_ref());
        visitor.child("vit_nepa.encoder", self.encoder.as_ref());
        visitor.child("vit_nepa.layernorm", &self.layernorm);
        if let Some(head) = &self.head {
            visitor.child("", head);
        }
    }

    fn vit_nepa(&self) -> Option<&VitNepa> {
        Some(self)
    }

    /// The logits of a model with a head, else the final norm's output.
    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        let output = self.encode(x, None, &Wanted::default())?;
        Ok(output.logits.unwrap_or(output.last_hidden_state))
    }
}
