//! The whole model: patch embedding, class token, blocks, final norm and, for classification, a
//! head (arXiv 2512.16922; names of the reference's checkpoints).

use super::blocks::square_side;
use super::{
    Architecture, Blocks, ClassToken, Classifier, Context, Definition, LayerNorm, Module, ModuleRef, ModuleVisitor,
    PatchEmbed, RotaryEmbedding, Taps,
};
use crate::bail_hint;
use crate::device::upload;
use crate::error::{Context as _, Result, bail, ensure};
use crate::tensor::shape_text;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// A caller's own modules in place of built-in ones.
#[derive(Default)]
pub struct VitNepaOverrides {
    /// Images [B, C, S, S], or whatever it takes, -> tokens [B, T, D].
    pub patch_embeddings: Option<ModuleRef>,
    /// Tokens [B, T, D] -> [B, T + 1, D], or as many as they are, for a model without class token.
    pub class_token: Option<ModuleRef>,
    /// Images -> rotary cosines and sines [2, T, d], or [2, B, 1, T, d].
    pub rotary: Option<ModuleRef>,
    /// Tokens [B, T + 1, D] -> [B, T + 1, D].
    pub encoder: Option<ModuleRef>,
    /// Tokens [B, T + 1, D] -> [B, T + 1, D].
    pub layernorm: Option<ModuleRef>,
    /// Tokens [B, T + 1, D] -> logits [B, num_labels].
    pub classifier: Option<ModuleRef>,
}

impl VitNepaOverrides {
    /// The names of the parts that are there.
    fn names(&self) -> Vec<&'static str> {
        let Self { patch_embeddings, class_token, rotary, encoder, layernorm, classifier } = self;
        let parts = [
            ("patch_embeddings", patch_embeddings),
            ("class_token", class_token),
            ("rotary", rotary),
            ("encoder", encoder),
            ("layernorm", layernorm),
            ("classifier", classifier),
        ];
        parts.into_iter().filter(|(_, part)| part.is_some()).map(|(name, _)| name).collect()
    }
}

/// Where the rotary angles come from.
enum Rotary {
    Off,
    Embedding(RotaryEmbedding),
    Own(ModuleRef),
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
    /// How many tokens of z and h stand before the patches: 1 with a class token.
    pub num_prefix_tokens: i64,
}

/// A ViT-NEPA, for pretraining (`num_labels` 0) or classification.
pub struct VitNepa {
    architecture: Architecture,
    patch_embeddings: ModuleRef,
    class_token: ModuleRef,
    rotary: Rotary,
    encoder: ModuleRef,
    layernorm: ModuleRef,
    /// With the name that its parameters stand under.
    head: Option<(&'static str, ModuleRef)>,
    /// Names of the parts that are not built-in ones.
    own_parts: Vec<&'static str>,
    /// The script that builds it, if one does.
    definition: RefCell<Option<Arc<Definition>>>,
    /// Keys of the `config.json` it came from that say nothing about the network (class names, …).
    generic: RefCell<Map<String, Value>>,
    normalization: RefCell<InputNormalization>,
}

/// How images become a model's input: (x − mean) / std, with a value for each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct InputNormalization {
    /// What is subtracted.
    pub mean: Vec<f64>,
    /// What the result is divided by.
    pub std: Vec<f64>,
    /// Whether images are read as they are (the mode "unchanged" of data::open), not as pictures of 8 bits, whose pixels
    /// are in [0, 1]. Those of other than 1 or 3 channels always are.
    pub is_unchanged: bool,
}

impl InputNormalization {
    /// By 0.5 and 0.5, as in the reference.
    pub fn usual(channels: usize) -> Self {
        let is_unchanged = !Self::is_of_pictures(channels);
        Self { mean: vec![0.5; channels], std: vec![0.5; channels], is_unchanged }
    }

    /// Where nothing says how images are read: as they are if a number lies beyond those of pixels in [0, 1].
    pub fn judged(mean: Vec<f64>, std: Vec<f64>) -> Self {
        let is_unchanged = mean.iter().chain(&std).any(|number| !(0.0..=1.0).contains(number));
        Self { mean, std, is_unchanged }
    }

    /// The mode of data::open that images are read in.
    pub fn mode(&self) -> &'static str {
        if self.is_unchanged { "unchanged" } else { "rgb" }
    }

    /// Whether pictures of 8 bits, which are grey or RGB, have so many channels.
    pub fn is_of_pictures(channels: usize) -> bool {
        [1, 3].contains(&channels)
    }

    /// That of images with so many channels: a single value counts for all of them, and equal ones for any number.
    pub fn of_channels(mut self, channels: usize) -> Result<Self> {
        self.is_unchanged |= !Self::is_of_pictures(channels);
        for (name, values) in [("mean", &mut self.mean), ("std", &mut self.std)] {
            if let [first, rest @ ..] = &values[..]
                && rest.iter().all(|other| other == first)
            {
                *values = vec![*first; channels];
            }
            ensure!(values.len() == channels, "{name}: expected {channels} numbers, found {values:?}");
        }
        Ok(self)
    }
}

impl VitNepa {
    /// A model with fresh weights; `own` modules stand in for built-in ones.
    pub fn new(architecture: &Architecture, own: VitNepaOverrides) -> Result<Self> {
        let (d, eps) = (architecture.hidden_size, architecture.layer_norm_eps);
        let channels = architecture.num_channels as usize;
        let layers = architecture.num_hidden_layers;
        if let Some(encoder) = &own.encoder
            && let Some(depth) = encoder.depth().filter(|depth| *depth != layers)
        {
            bail!("the encoder {} has {depth} blocks, but num_hidden_layers is {layers}", encoder.describe());
        }
        ensure!(
            own.classifier.is_none() || architecture.num_labels > 0,
            "a classifier is given, but num_labels is 0, which means none"
        );
        let own_parts = own.names();
        fn or<M: Module + 'static>(own: Option<ModuleRef>, make: impl FnOnce() -> Result<M>) -> Result<ModuleRef> {
            own.map_or_else(|| Ok(Rc::new(make()?) as ModuleRef), Ok)
        }
        Ok(Self {
            patch_embeddings: or(own.patch_embeddings, || PatchEmbed::new(architecture))?,
            class_token: or(own.class_token, || ClassToken::new(d, architecture.initializer_range))?,
            rotary: match own.rotary {
                Some(module) => Rotary::Own(module),
                None => RotaryEmbedding::from_architecture(architecture)?.map_or(Rotary::Off, Rotary::Embedding),
            },
            encoder: or(own.encoder, || Blocks::new(architecture, None))?,
            layernorm: or(own.layernorm, || LayerNorm::with_eps(d, eps))?,
            head: match own.classifier {
                _ if architecture.num_labels == 0 => None,
                Some(module) => Some(("classifier", module)),
                None => Some(("", Rc::new(Classifier::new(architecture)?))),
            },
            own_parts,
            definition: RefCell::default(),
            architecture: architecture.clone(),
            generic: RefCell::default(),
            normalization: RefCell::new(InputNormalization::usual(channels)),
        })
    }

    /// What it was made from.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Names of the parts that are not built-in ones; none of a plain ViT-NEPA.
    pub fn own_parts(&self) -> &[&'static str] {
        &self.own_parts
    }

    /// The script that builds it, if one does.
    pub fn definition(&self) -> Option<Arc<Definition>> {
        self.definition.borrow().clone()
    }

    /// Says which script has built it.
    pub fn set_definition(&self, definition: Definition) {
        self.definition.replace(Some(Arc::new(definition)));
    }

    /// Keys of the `config.json` it came from that say nothing about the network.
    pub fn generic(&self) -> Map<String, Value> {
        self.generic.borrow().clone()
    }

    /// Sets the keys of the `config.json` it came from that say nothing about the network.
    pub fn set_generic(&self, generic: Map<String, Value>) {
        self.generic.replace(generic);
    }

    /// How the images that it was trained on were normalised; before it is told, by 0.5 and 0.5, as in the reference.
    pub fn normalization(&self) -> InputNormalization {
        self.normalization.borrow().clone()
    }

    /// Sets how its images are normalised; a single value counts for all channels, and equal ones for any number.
    pub fn set_normalization(&self, normalization: InputNormalization) -> Result<()> {
        self.normalization.replace(normalization.of_channels(self.architecture.num_channels as usize)?);
        Ok(())
    }

    /// Applies the final norm to tokens [B, N, D].
    pub fn final_norm(&self, x: &Tensor) -> Result<Tensor> {
        self.layernorm.forward(x, &Context::default())
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
        let input_embedding = self.class_token.forward(&patches, &cx).context("in embeddings")?;
        let seen = match input_mask {
            Some(mask) => self.class_token.forward(&masked(&patches, mask)?, &cx).context("in embeddings")?,
            None => input_embedding.shallow_clone(),
        };
        let count = patches.size().get(1).copied().unwrap_or(0);
        let num_prefix_tokens = (input_embedding.size().get(1).copied().unwrap_or(0) - count).max(0);
        cx.num_prefix_tokens = Some(num_prefix_tokens);
        cx.rotary = self.angles(images, &patches, &mut cx)?;
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
        ensure!(
            encoded.size() == seen.size(),
            "the encoder must give tokens of the shape that it gets, {}, found {}",
            shape_text(&seen),
            shape_text(&encoded)
        );
        let last_hidden_state = self.layernorm.forward(&encoded, &cx)?;
        let head = self
            .head
            .as_ref()
            .map(|(_, head)| head)
            .filter(|_| wanted.blocks.is_none_or(|blocks| blocks as i64 == layers));
        let logits = head.map(|head| head.forward(&last_hidden_state, &cx)).transpose()?;
        Ok(Output {
            input_embedding,
            last_hidden_state,
            hidden_states: match wanted.hidden_states {
                true => taps.hidden_states.take().iter().map(|x| own_tokens(x, &seen, count)).collect::<Result<_>>()?,
                false => Vec::new(),
            },
            attentions: taps.attentions.take(),
            logits,
            num_prefix_tokens,
        })
    }
}

impl VitNepa {
    /// The rotary angles of images and their patches [B, T, D], and the patches' grid, if it was not known.
    fn angles(&self, images: &Tensor, patches: &Tensor, cx: &mut Context) -> Result<Option<Tensor>> {
        let count = patches.size().get(1).copied().unwrap_or(0);
        match &self.rotary {
            Rotary::Off => Ok(None),
            Rotary::Own(module) => {
                let angles = module.forward(images, cx).context("in rotary")?;
                let size = angles.size();
                let head_size = self.architecture.head_size;
                let fits = [3, 5].contains(&size.len()) && size[0] == 2 && size.ends_with(&[count, head_size]);
                ensure!(
                    fits,
                    "the part `rotary` must give cosines and sines [2, {count}, {head_size}] (patches, head width), or \
                     [2, B, 1, {count}, {head_size}], found {}",
                    shape_text(&angles)
                );
                Ok(Some(angles))
            }
            Rotary::Embedding(embedding) => {
                let is_square = matches!(images.size()[..], [.., height, width] if height == width);
                let side = square_side(count).filter(|_| is_square);
                let grid = match cx.grid.or(side.map(|side| (side, side))) {
                    Some(grid) => grid,
                    None => bail_hint!(
                        "the patch embedding gives {count} tokens ({}) of images {}, and does not say their grid; only that of \
                         square images with a square number of tokens is known",
                        shape_text(patches), shape_text(images);
                        "make it give a square number of tokens of square images, give the angles with the part `rotary`, or switch rotary \
                         embedding off with rope_theta: ()"
                    ),
                };
                cx.grid = Some(grid);
                Ok(Some(embedding.angles_of_batch(grid, images.size().first().map_or(0, |n| *n as usize))?))
            }
        }
    }

    /// Floating-point operations of one image's forward pass, and those of the encoder among them; an error names the part
    /// that does not say.
    pub fn flops_per_image(&self) -> Result<(i64, i64)> {
        let n = self.architecture.tokens;
        let head = self.head.as_ref().map(|(_, head)| ("classifier", head, n));
        let parts = [
            ("patch_embeddings", &self.patch_embeddings, n - 1),
            ("class_token", &self.class_token, n),
            ("encoder", &self.encoder, n),
            ("layernorm", &self.layernorm, n),
        ];
        let (mut all, mut encoder) = (0, 0);
        for (name, part, tokens) in parts.into_iter().chain(head) {
            match part.flops(tokens) {
                Some(flops) => {
                    all += flops;
                    encoder += if name == "encoder" { flops } else { 0 };
                }
                None => bail_hint!(
                    "the part `{name}`, {}, does not say how many operations it takes", part.describe();
                    "nn::define(parts, forward, #{{ flops: N }}) says it: those of one image's forward pass"
                ),
            }
        }
        Ok((all, encoder))
    }
}

/// The tokens of a hidden state that the model's output has too: the class token, if there is one, and the `patches` last
/// ones, but not those that an encoder puts between them (registers).
fn own_tokens(x: &Tensor, like: &Tensor, patches: i64) -> Result<Tensor> {
    let (found, wanted) = (x.size(), like.size());
    ensure!(
        found.len() == 3 && found[1] >= wanted[1] && (found[0], found[2]) == (wanted[0], wanted[2]),
        "expected a hidden state like {}, found {}",
        shape_text(like),
        shape_text(x)
    );
    if found[1] == wanted[1] {
        return Ok(x.shallow_clone());
    }
    Ok(Tensor::f_cat(&[x.f_narrow(1, 0, wanted[1] - patches)?, x.f_narrow(1, found[1] - patches, patches)?], 1)?)
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
    Ok(patches.f_masked_fill(&upload(mask, patches.device())?.f_unsqueeze(-1)?, 0.0)?)
}

impl Module for VitNepa {
    fn describe(&self) -> String {
        let c = &self.architecture;
        let head = if c.num_labels > 0 { format!(", {} labels", c.num_labels) } else { String::new() };
        let own = match (&*self.definition.borrow(), &self.own_parts[..]) {
            (Some(definition), _) => format!(", built by {}", definition.script),
            (None, []) => String::new(),
            (None, parts) => format!(", own {}", parts.join(", ")),
        };
        format!(
            "vit_nepa({}² / {}, {} x {}, {} heads{head}{own})",
            c.image_size, c.patch_size, c.num_hidden_layers, c.hidden_size, c.num_attention_heads
        )
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.child("vit_nepa.embeddings", self.class_token.as_ref());
        visitor.child("vit_nepa.embeddings.patch_embeddings", self.patch_embeddings.as_ref());
        match &self.rotary {
            Rotary::Off => {}
            Rotary::Embedding(embedding) => visitor.training(&embedding.training),
            Rotary::Own(module) => visitor.child("vit_nepa.rotary", module.as_ref()),
        }
        visitor.child("vit_nepa.encoder", self.encoder.as_ref());
        visitor.child("vit_nepa.layernorm", self.layernorm.as_ref());
        if let Some((name, head)) = &self.head {
            visitor.child(name, head.as_ref());
        }
    }

    fn depth(&self) -> Option<i64> {
        self.encoder.depth()
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
