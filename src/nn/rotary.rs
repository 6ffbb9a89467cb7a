//! 2-D rotary position embedding (RoFormer, arXiv 2104.09864; on patch coordinates as in DINOv3,
//! arXiv 2508.10104), applied to the queries and keys of the patch tokens only.

use super::Architecture;
use crate::error::{Result, ensure};
use crate::options;
use crate::random;
use std::cell::{Cell, RefCell};
use tch::Tensor;

options! {
    /// How patch coordinates become rotations.
    pub struct RotaryOptions {
        /// Width d of an attention head; a multiple of 4.
        head_size: i64 = 64,
        /// Base of the frequencies θ^(-4j/d).
        rope_theta: f64 = 100.0,
        /// In training, adds U(-s, s) to the coordinates, per axis; () means off.
        pos_embed_shift: Option<f64> = None,
        /// In training, multiplies the coordinates by exp(U(-ln r, ln r)), per axis.
        pos_embed_jitter: Option<f64> = None,
        /// In training, multiplies both axes by one exp(U(-ln r, ln r)).
        pos_embed_rescale: Option<f64> = None,
    }
}

/// Makes the cosines and sines of a patch grid. No parameters.
pub struct RotaryEmbedding {
    options: RotaryOptions,
    pub(super) training: Cell<bool>,
    /// The last grid's table without augmentation: it is the same in every step.
    table: RefCell<Option<((i64, i64), Tensor)>>,
}

impl RotaryEmbedding {
    /// A rotary embedding with the given options.
    pub fn new(options: &RotaryOptions) -> Result<Self> {
        ensure!(
            options.head_size > 0 && options.head_size % 4 == 0,
            "rotary embedding needs a head_size that is a positive multiple of 4, found {}",
            options.head_size
        );
        Ok(Self { options: options.clone(), training: Cell::new(true), table: RefCell::new(None) })
    }

    /// The rotary embedding of an architecture; `None` if it has none.
    pub fn from_architecture(architecture: &Architecture) -> Result<Option<Self>> {
        let Some(rope_theta) = architecture.rope_theta else { return Ok(None) };
        Self::new(&RotaryOptions {
            head_size: architecture.head_size,
            rope_theta,
            pos_embed_shift: architecture.pos_embed_shift,
            pos_embed_jitter: architecture.pos_embed_jitter,
            pos_embed_rescale: architecture.pos_embed_rescale,
        })
        .map(Some)
    }

    /// Training draws the coordinate augmentation, evaluation does not.
    pub fn set_training(&self, training: bool) {
        self.training.set(training);
    }

    /// A short text for printing, as [`super::Module::describe`].
    pub fn describe(&self) -> String {
        format!("rotary_embedding(head_size {}, rope_theta {})", self.options.head_size, self.options.rope_theta)
    }

    /// Cosines and sines [2, rows · columns, d], float32 on the run's device. In training one draw
    /// of the coordinate augmentation serves the whole batch.
    pub fn angles(&self, (rows, columns): (i64, i64)) -> Result<Tensor> {
        ensure!(rows > 0 && columns > 0, "a patch grid needs positive sides, found {rows} x {columns}");
        let o = &self.options;
        let augmented = self.training.get()
            && (o.pos_embed_shift.is_some() || o.pos_embed_jitter.is_some() || o.pos_embed_rescale.is_some());
        if augmented {
            return self.compute((rows, columns), self.draw());
        }
        if let Some((grid, table)) = &*self.table.borrow()
            && *grid == (rows, columns)
        {
            return Ok(table.shallow_clone());
        }
        let table = self.compute((rows, columns), ([0.0; 2], [1.0; 2]))?;
        *self.table.borrow_mut() = Some(((rows, columns), table.shallow_clone()));
        Ok(table)
    }

    /// One draw of the augmentation: what is added to, then multiplied with (y, x).
    fn draw(&self) -> ([f64; 2], [f64; 2]) {
        let o = &self.options;
        let mut rng = random::next_key().rng();
        let mut symmetric = |limit: f64| random::uniform(&mut rng, -limit, limit);
        let (mut add, mut multiply) = ([0.0; 2], [1.0; 2]);
        if let Some(s) = o.pos_embed_shift {
            add = [symmetric(s), symmetric(s)];
        }
        if let Some(r) = o.pos_embed_jitter {
            multiply = [symmetric(r.ln()).exp(), symmetric(r.ln()).exp()];
        }
        if let Some(r) = o.pos_embed_rescale {
            let factor = symmetric(r.ln()).exp();
            multiply = multiply.map(|m| m * factor);
        }
        (add, multiply)
    }

    fn compute(&self, (rows, columns): (i64, i64), (add, multiply): ([f64; 2], [f64; 2])) -> Result<Tensor> {
        let cpu = tch::kind::FLOAT_CPU;
        let axis = |n: i64, i: usize| -> Result<Tensor> {
            let centre = Tensor::f_arange_start(0.5, n as f64, cpu)?.f_div_scalar(n as f64)?;
            Ok(centre.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?.f_add_scalar(add[i])?.f_mul_scalar(multiply[i])?)
        };
        let y = axis(rows, 0)?.f_unsqueeze(1)?.f_expand([rows, columns], false)?.f_reshape([-1])?;
        let x = axis(columns, 1)?.f_unsqueeze(0)?.f_expand([rows, columns], false)?.f_reshape([-1])?;
        let coordinates = Tensor::f_stack(&[y, x], 1)?; // [T, 2]

        // θ^(-4j/d), j = 0 … d/4 - 1
        let exponents = Tensor::f_arange_start_step(0.0, 1.0, 4.0 / self.options.head_size as f64, cpu)?;
        let frequencies = Tensor::f_pow_scalar(self.options.rope_theta, &exponents)?.f_reciprocal()?;
        let angles = coordinates
            .f_mul_scalar(2.0 * std::f64::consts::PI)?
            .f_unsqueeze(2)?
            .f_mul(&frequencies)? // [T, 2, d/4]
            .f_flatten(1, 2)?
            .f_repeat([1, 2])?; // [T, d]
        Ok(Tensor::f_stack(&[angles.f_cos()?, angles.f_sin()?], 0)?.f_to_device(crate::device::current())?)
    }
}

/// Rotates the last T tokens of `x` [B, H, N, d] by `angles` [2, T, d], half-split kind; the tokens
/// before them stay as they are.
pub fn rotate(x: &Tensor, angles: &Tensor) -> Result<Tensor> {
    let (tokens, size) = (x.size()[2], angles.size());
    ensure!(
        size.len() == 3 && size[0] == 2 && size[1] <= tokens && size[2] == x.size()[3],
        "expected rotary angles [2, T, {}] for T of at most {tokens} tokens, found {}",
        x.size()[3],
        crate::tensor::shape_text(angles)
    );
    let patches = size[1];
    let (cos, sin) = (angles.f_get(0)?, angles.f_get(1)?);
    let prefix = tokens - patches;
    let rotating = x.f_narrow(2, prefix, patches)?;
    let halves = rotating.f_chunk(2, -1)?;
    let turned = Tensor::f_cat(&[halves[1].f_neg()?, halves[0].shallow_clone()], -1)?;
    // The angles are float32, and so is the rotation of narrower values; the result has their own dtype again.
    let rotated = rotating.f_mul(&cos)?.f_add(&turned.f_mul(&sin)?)?.f_to_kind(x.kind())?;
    if prefix == 0 {
        return Ok(rotated);
    }
    Ok(Tensor::f_cat(&[x.f_narrow(2, 0, prefix)?, rotated], 2)?)
}
