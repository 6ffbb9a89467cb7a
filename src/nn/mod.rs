//! The building blocks, one file each. A block is a [`Module`]: named parameters, named children, a
//! forward function. Parameter names are those of the reference's Hugging Face checkpoints.

mod attention;
mod batch_norm;
mod block;
mod blocks;
mod class_token;
mod classifier;
mod config;
mod conv;
mod conv_nd;
mod cost;
mod definition;
mod drop_path;
mod dropout;
mod embedding;
mod fused;
mod init;
mod layer_scale;
mod linear;
mod mlp;
mod norm;
mod norms;
mod patch_embed;
mod prelu;
mod recompute;
mod rotary;
mod sequential;
mod vit_nepa;

pub use attention::Attention;
pub use batch_norm::{BatchNorm, BatchNormOptions};
pub use block::{Block, BlockOverrides};
pub use blocks::Blocks;
pub use class_token::ClassToken;
pub use classifier::Classifier;
pub use config::{Activation, Architecture, VitNepaConfig};
pub use conv::{Conv2d, Conv2dOptions};
pub use conv_nd::{ConvNd, ConvNdOptions};
pub use cost::{Cost, CostOptions, Memory};
pub use definition::Definition;
pub use drop_path::DropPath;
pub use dropout::{Dropout, Dropped, drawn_for, dropped};
pub use embedding::Embedding;
pub use fused::set_fused;
pub use init::{trunc_normal, truncated_normal};
pub use layer_scale::LayerScale;
pub use linear::{Linear, LinearOptions};
pub use mlp::Mlp;
pub use norm::{LayerNorm, LayerNormOptions};
pub use norms::{GroupNorm, RmsNorm};
pub use patch_embed::PatchEmbed;
pub use prelu::Prelu;
pub use rotary::{RotaryEmbedding, RotaryOptions, apply_rotary};
pub use sequential::Sequential;
pub use vit_nepa::{InputNormalization, Output, VitNepa, VitNepaOverrides, Wanted};

use crate::bail_hint;
use crate::error::{Result, did_you_mean, ensure};
use crate::tensor::shape_text;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use tch::Tensor;
use wildmatch::WildMatch;

/// A shared handle to any module; cloning it shares the parameters.
pub type ModuleRef = Rc<dyn Module>;

/// A block with parameters and a forward function.
pub trait Module {
    /// The block's name in printed trees and errors, for example `linear(192 -> 768)`.
    fn describe(&self) -> String;

    /// Shows every own parameter, flag and child to `visitor`, in forward order.
    fn visit(&self, visitor: &mut ModuleVisitor<'_>);

    /// Applies the block to `x`.
    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor>;

    /// The patch grid (rows, columns) that this block's output tokens lie on, for images shaped
    /// like `images` [B, C, H, W]; `None` if it has no opinion.
    fn grid(&self, _images: &Tensor) -> Option<(i64, i64)> {
        None
    }

    /// How many blocks its tokens go through, one after the other, each of which it records as a hidden state; `None` if
    /// it does not say.
    fn depth(&self) -> Option<i64> {
        None
    }

    /// Floating-point operations of one image's forward pass, with `tokens` tokens. Only matrix products count, a
    /// multiplication with its addition as two. `None` if it does not say.
    fn flops(&self, _tokens: i64) -> Option<i64> {
        None
    }

    /// The module itself, if others may look for its own type.
    fn as_any(&self) -> Option<&dyn std::any::Any> {
        None
    }

    /// The module as a whole ViT-NEPA, if it is one.
    fn vit_nepa(&self) -> Option<&VitNepa> {
        None
    }
}

/// What a forward pass carries from the outside to every block.
#[derive(Default)]
pub struct Context {
    /// Rotary cosines and sines [2, T, d] or [2, B, 1, T, d], float32, for the last T tokens.
    pub rotary: Option<Tensor>,
    /// The patch grid (rows, columns), if known.
    pub grid: Option<(i64, i64)>,
    /// Where inner values are collected; `None` if nobody wants them.
    pub taps: Option<Rc<Taps>>,
    /// How many blocks are computed, over all stacks; `None` means all.
    pub blocks: Option<usize>,
    /// How many tokens stand before the patches, if known: 1 with a class token.
    pub num_prefix_tokens: Option<i64>,
    /// What drop path multiplies the branches of a stack's block with; `None` where the block draws for itself.
    drop_path: drop_path::BranchMasks,
}

impl Clone for Context {
    fn clone(&self) -> Self {
        Self {
            rotary: self.rotary.as_ref().map(Tensor::shallow_clone),
            grid: self.grid,
            taps: self.taps.clone(),
            blocks: self.blocks,
            num_prefix_tokens: self.num_prefix_tokens,
            drop_path: self.drop_path.as_ref().map(|masks| masks.each_ref().map(Tensor::shallow_clone)),
        }
    }
}

/// Inner values of a forward pass.
#[derive(Default)]
pub struct Taps {
    /// Whether attention is computed openly, so that its probabilities can be kept.
    pub want_attentions: bool,
    /// The input of the first block and the raw output of each, [B, N, D].
    pub hidden_states: RefCell<Vec<Tensor>>,
    /// Attention probabilities of each block, [B, H, N, N].
    pub attentions: RefCell<Vec<Tensor>>,
}

impl Taps {
    /// Keeps what a block gives, or what the first one gets.
    pub fn record_hidden_state(&self, x: &Tensor) {
        self.hidden_states.borrow_mut().push(x.shallow_clone());
    }

    /// Keeps the probabilities of an attention.
    pub fn record_attention(&self, probabilities: &Tensor) {
        self.attentions.borrow_mut().push(probabilities.shallow_clone());
    }
}

enum Visited<'a> {
    /// With the block that it belongs to.
    Parameter(&'a Tensor, Option<usize>),
    Buffer(&'a Tensor),
    Training(&'a Cell<bool>),
    Recompute(&'a Cell<bool>),
    /// A branch of a block, and whether fused operations know its module.
    Branch(bool),
}

/// Walks a module tree and names its parameters, flags and children.
pub struct ModuleVisitor<'a> {
    prefix: String,
    /// The block that is being visited.
    block: Option<usize>,
    /// How many blocks have been visited, over all stacks.
    blocks: &'a mut usize,
    found: &'a mut dyn FnMut(&str, Visited<'_>),
}

impl ModuleVisitor<'_> {
    fn name(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            (prefix, "") => prefix.to_string(),
            ("", name) => name.to_string(),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }

    /// An own parameter.
    pub fn parameter(&mut self, name: &str, tensor: &Tensor) {
        let name = self.name(name);
        (self.found)(&name, Visited::Parameter(tensor, self.block));
    }

    /// An own tensor that is no parameter, but saved and loaded with them, such as a running mean.
    pub fn buffer(&mut self, name: &str, tensor: &Tensor) {
        let name = self.name(name);
        (self.found)(&name, Visited::Buffer(tensor));
    }

    /// The flag that tells training from evaluation, if the block behaves differently.
    pub fn training(&mut self, flag: &Cell<bool>) {
        (self.found)(&self.prefix, Visited::Training(flag));
    }

    /// The flag of a stack of blocks that says whether backward recomputes them.
    pub fn recompute(&mut self, flag: &Cell<bool>) {
        (self.found)(&self.prefix, Visited::Recompute(flag));
    }

    /// A residual branch of a block, around this module.
    fn branch(&mut self, inner: &dyn Module) {
        (self.found)(&self.prefix, Visited::Branch(fused::knows(inner)));
    }

    /// A child; an empty name puts its parameters beside this module's own.
    pub fn child(&mut self, name: &str, module: &dyn Module) {
        let prefix = self.name(name);
        module.visit(&mut ModuleVisitor { prefix, block: self.block, blocks: self.blocks, found: self.found });
    }

    /// A child that is the next block of a stack. Blocks inside a block belong to it.
    pub fn block(&mut self, name: &str, module: &dyn Module) {
        let prefix = self.name(name);
        let block = self.block.unwrap_or(*self.blocks);
        if self.block.is_none() {
            *self.blocks += 1;
        }
        module.visit(&mut ModuleVisitor { prefix, block: Some(block), blocks: self.blocks, found: self.found });
    }
}

fn visit(module: &dyn Module, mut found: impl FnMut(&str, Visited<'_>)) {
    module.visit(&mut ModuleVisitor { prefix: String::new(), block: None, blocks: &mut 0, found: &mut found });
}

/// All parameters with their full names, in forward order. A shared parameter is listed once, under its first name, as
/// in PyTorch.
pub fn named_parameters(module: &dyn Module) -> Vec<(String, Tensor)> {
    each_parameter(module).into_iter().map(|(name, tensor, _)| (name, tensor)).collect()
}

/// The layer of each parameter, by its full name, as BEiT counts them for layer-wise learning rates (arXiv 2106.08254): 0
/// for embeddings, I + 1 for block I, and that of the last block for what comes after them, and for an encoder that does
/// not say what its blocks are.
pub fn layer_ids(module: &dyn Module) -> Vec<(String, i64)> {
    let all = each_parameter(module);
    let last = match module.vit_nepa() {
        Some(model) => model.architecture().num_hidden_layers,
        None => all.iter().filter_map(|(_, _, block)| *block).max().map_or(0, |block| block as i64 + 1),
    };
    let layer = |name: &str, block: Option<usize>| match block {
        Some(block) => block as i64 + 1,
        None if name.contains("embeddings.") => 0,
        None => last,
    };
    let with_layer = |(name, _, block): (String, Tensor, Option<usize>)| {
        let id = layer(&name, block);
        (name, id)
    };
    all.into_iter().map(with_layer).collect()
}

/// All parameters with their full names and their blocks.
fn each_parameter(module: &dyn Module) -> Vec<(String, Tensor, Option<usize>)> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    visit(module, |name, visited| {
        if let Visited::Parameter(t, block) = visited
            && (t.numel() == 0 || seen.insert(t.data_ptr()))
        {
            all.push((name.to_string(), t.shallow_clone(), block));
        }
    });
    all
}

/// All buffers with their full names, in forward order.
pub fn named_buffers(module: &dyn Module) -> Vec<(String, Tensor)> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    visit(module, |name, visited| {
        if let Visited::Buffer(t) = visited
            && seen.insert(t.data_ptr())
        {
            all.push((name.to_string(), t.shallow_clone()));
        }
    });
    all
}

/// What is saved and loaded of a module: all parameters, then all buffers.
pub fn named_state(module: &dyn Module) -> Vec<(String, Tensor)> {
    named_parameters(module).into_iter().chain(named_buffers(module)).collect()
}

/// How many branches of blocks there are in a module, and for how many of them there are fused operations.
pub fn fused_branches(module: &dyn Module) -> (usize, usize) {
    let (mut all, mut fused) = (0, 0);
    visit(module, |_, visited| {
        if let Visited::Branch(is_known) = visited {
            all += 1;
            fused += usize::from(is_known && fused::is_enabled());
        }
    });
    (all, fused)
}

/// The number of scalars in all parameters.
pub fn num_parameters(module: &dyn Module) -> i64 {
    named_parameters(module).iter().map(|(_, t)| t.numel() as i64).sum()
}

/// Puts the module and all its children in training or evaluation mode.
pub fn set_training(module: &dyn Module, training: bool) {
    visit(module, |_, visited| {
        if let Visited::Training(flag) = visited {
            flag.set(training);
        }
    });
}

/// Whether any block with a training mode is in it.
pub fn is_training(module: &dyn Module) -> bool {
    let mut training = false;
    visit(module, |_, visited| {
        if let Visited::Training(flag) = visited {
            training |= flag.get();
        }
    });
    training
}

/// Turns activation checkpointing on or off: with it, each block of the module's stacks of blocks keeps only its input
/// in training, and backward recomputes the rest.
pub fn set_recompute(module: &dyn Module, recompute: bool) -> Result<()> {
    let mut stacks = 0;
    visit(module, |_, visited| {
        if let Visited::Recompute(flag) = visited {
            flag.set(recompute);
            stacks += 1;
        }
    });
    if stacks == 0 {
        bail_hint!(
            "recompute: expected a model made by nn::vit_nepa, or nn::blocks, found {}", module.describe();
            "backward can recompute the blocks of nn::blocks, and this module has none"
        );
    }
    Ok(())
}

/// Whether backward recomputes blocks of the module.
pub fn is_recomputed(module: &dyn Module) -> bool {
    let mut recompute = false;
    visit(module, |_, visited| {
        if let Visited::Recompute(flag) = visited {
            recompute |= flag.get();
        }
    });
    recompute
}

/// Freezes or thaws the parameters whose full name matches `pattern` (`*` stands for any
/// characters); returns how many. A pattern that matches none is an error.
pub fn set_trainable(module: &dyn Module, pattern: &str, trainable: bool) -> Result<usize> {
    let wild = WildMatch::new(pattern);
    let all = named_parameters(module);
    let mut count = 0;
    for (name, tensor) in &all {
        if wild.matches(name) {
            let _ = tensor.f_set_requires_grad(trainable)?;
            count += 1;
        }
    }
    if count == 0 {
        bail_hint!(
            "no parameter matches `{pattern}`{}", did_you_mean(pattern, all.iter().map(|(n, _)| n.as_str()));
            "`*` stands for any characters; print(model.named_parameters().keys()) lists the names"
        );
    }
    Ok(count)
}

/// Names of the parameters that are trained.
pub fn trained_names(module: &dyn Module) -> Vec<String> {
    named_parameters(module).into_iter().filter(|(_, p)| p.requires_grad()).map(|(name, _)| name).collect()
}

/// Trains the named parameters and no others.
pub fn train_only(module: &dyn Module, names: &[String]) -> Result<()> {
    let names: HashSet<&str> = names.iter().map(String::as_str).collect();
    for (name, parameter) in named_parameters(module) {
        let _ = parameter.f_set_requires_grad(names.contains(name.as_str()))?;
    }
    Ok(())
}

/// A new parameter with the given values on the run's device.
fn parameter(values: Tensor) -> Result<Tensor> {
    Ok(values.f_to_device(crate::device::current())?.f_set_requires_grad(true)?)
}

fn zeros(shape: &[i64]) -> Result<Tensor> {
    parameter(Tensor::f_zeros(shape, tch::kind::FLOAT_CPU)?)
}

fn full(shape: &[i64], value: f64) -> Result<Tensor> {
    parameter(Tensor::f_full(shape, value, tch::kind::FLOAT_CPU)?)
}

/// Checks that `x` holds floats and that its last dimension is `width`.
fn expect_features(x: &Tensor, width: i64, what: &dyn Module) -> Result<()> {
    ensure!(
        x.size().last() == Some(&width) && x.is_floating_point(),
        "{} expects floats with a last dimension of {width}, found {}",
        what.describe(),
        shape_text(x)
    );
    Ok(())
}

/// Checks that `x` is a batch of token sequences [B, N, `width`].
fn expect_tokens(x: &Tensor, width: i64, what: &dyn Module) -> Result<()> {
    ensure!(
        x.dim() == 3 && x.size()[2] == width && x.is_floating_point(),
        "{} expects tokens [B, N, {width}] of floats, found {}",
        what.describe(),
        shape_text(x)
    );
    Ok(())
}
