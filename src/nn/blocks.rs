//! The stack of blocks, with the rotary embedding that they share.

use super::drop_path::masks_of_stack;
use super::{
    Architecture, Block, BlockOverrides, Context, Module, ModuleRef, ModuleVisitor, RotaryEmbedding, recompute,
};
use crate::error::{Context as _, Result, bail};
use crate::tensor::shape_text;
use std::cell::Cell;
use std::rc::Rc;
use tch::Tensor;

/// [B, N, D] -> [B, N, D]; parameters are named `layer.I.…`.
pub struct Blocks {
    layer: Vec<ModuleRef>,
    rotary: Option<RotaryEmbedding>,
    training: Cell<bool>,
    recompute: Cell<bool>,
}

impl Blocks {
    /// The configured blocks, or the given ones in their place.
    pub fn new(architecture: &Architecture, own: Option<Vec<ModuleRef>>) -> Result<Self> {
        let layer = match own {
            Some(own) => own,
            None => (0..architecture.num_hidden_layers as usize)
                .map(|i| {
                    Ok(Rc::new(Block::new(architecture, architecture.drop_path_of(i), BlockOverrides::default())?)
                        as ModuleRef)
                })
                .collect::<Result<_>>()?,
        };
        Ok(Self {
            layer,
            rotary: RotaryEmbedding::from_architecture(architecture)?,
            training: Cell::new(true),
            recompute: Cell::new(false),
        })
    }
}

impl Module for Blocks {
    fn describe(&self) -> String {
        format!("blocks({} layers)", self.layer.len())
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.training(&self.training);
        visitor.recompute(&self.recompute);
        if let Some(rotary) = &self.rotary {
            visitor.training(&rotary.training);
        }
        for (i, block) in self.layer.iter().enumerate() {
            visitor.block(&format!("layer.{i}"), block.as_ref());
        }
    }

    fn depth(&self) -> Option<i64> {
        Some(self.layer.len() as i64)
    }

    fn flops(&self, tokens: i64) -> Option<i64> {
        self.layer.iter().map(|block| block.flops(tokens)).sum()
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        let rotary = match (&cx.rotary, &self.rotary) {
            (Some(given), _) => Some(given.shallow_clone()),
            (None, Some(rotary)) => {
                let grid = match cx.grid {
                    Some(grid) => grid,
                    None => square_grid(x)?,
                };
                Some(rotary.angles_of_batch(grid, x.size().first().map_or(0, |n| *n as usize))?)
            }
            (None, None) => None,
        };
        // Hidden states that are there are those of another stack before this one: what it gave is this one's input.
        let kept = cx.taps.as_ref().map_or(0, |taps| taps.hidden_states.borrow().len());
        let wanted = cx.blocks.map_or(usize::MAX, |all| all - kept.saturating_sub(1).min(all));
        let blocks = &self.layer[..self.layer.len().min(wanted)];
        let paths: Vec<_> =
            blocks.iter().map(|block| Some(&block.as_any()?.downcast_ref::<Block>()?.drop_path)).collect();
        let masks = masks_of_stack(&paths, x)?;
        let mut inner = Context { rotary, grid: cx.grid, taps: cx.taps.clone(), ..Default::default() };
        let keep = |x: &Tensor| {
            if let Some(taps) = &cx.taps {
                taps.record_hidden_state(x);
            }
        };
        if kept == 0 {
            keep(x);
        }
        let wants_attentions = cx.taps.as_ref().is_some_and(|t| t.want_attentions);
        let recomputed = self.recompute.get() && self.training.get() && !wants_attentions;
        let mut x = x.shallow_clone();
        for (i, (block, masks)) in blocks.iter().zip(masks).enumerate() {
            let place = move || format!("in layer {i}");
            inner.drop_path = masks;
            x = match recomputed {
                true => recompute::forward(block, &x, &inner, place).with_context(place)?,
                false => block.forward(&x, &inner).with_context(place)?,
            };
            keep(&x);
        }
        Ok(x)
    }
}

/// The square patch grid behind [B, N, D] tokens, with or without a class token in front.
fn square_grid(x: &Tensor) -> Result<(i64, i64)> {
    let size = x.size();
    match size.get(1).and_then(|&n| square_side(n - 1).or_else(|| square_side(n))) {
        Some(side) => Ok((side, side)),
        None => bail!(
            "cannot tell the patch grid of tokens {}: expected N = side² or side² + 1 (a class token); \
             pass the rotary angles yourself: blocks.forward(x, rotary.angles(rows, columns))",
            shape_text(x)
        ),
    }
}

/// The side of a square of `n` patches.
pub(super) fn square_side(n: i64) -> Option<i64> {
    Some((n as f64).sqrt().round() as i64).filter(|side| *side > 0 && side * side == n)
}
