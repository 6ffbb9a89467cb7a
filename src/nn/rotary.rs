//! 2-D rotary position embedding (RoFormer, arXiv 2104.09864; on patch coordinates as in DINOv3,
//! arXiv 2508.10104), applied to the queries and keys of the patch tokens only.

use super::Architecture;
use crate::device::{self, upload};
use crate::error::{Result, ensure};
use crate::options;
use crate::random::{self, Key};
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
    /// Images of the global batch that share a draw of the augmentation; `None` means all.
    images_per_draw: Option<usize>,
    pub(super) training: Cell<bool>,
    /// The last grid's: they are the same in every step.
    grid: RefCell<Option<Grid>>,
}

/// What angles are computed from, float32 on the run's device, where the few numbers of a draw come as arguments of
/// operators: nothing is uploaded for a step.
struct Grid {
    sides: (i64, i64),
    /// (y, x) of the patches' centres in [-1, 1], [T, 2].
    coordinates: Tensor,
    /// θ^(-4j/d) for j = 0 … d/4 - 1.
    frequencies: Tensor,
    /// The angles without augmentation, once they were needed.
    plain: Option<Tensor>,
}

/// One draw of the augmentation: what is added to, then multiplied with (y, x).
type Draw = ([f64; 2], [f64; 2]);

impl Grid {
    /// The angles [2, T, d] of the coordinates as one draw changes them.
    fn angles(&self, (add, multiply): Draw) -> Result<Tensor> {
        let coordinates = if add == [0.0; 2] && multiply[0] == multiply[1] {
            self.coordinates.f_mul_scalar(multiply[0])?
        } else {
            let axis = |i: usize| -> Result<Tensor> {
                let axis = self.coordinates.f_select(1, i as i64)?;
                Ok(axis.f_add_scalar(add[i])?.f_mul_scalar(multiply[i])?)
            };
            Tensor::f_stack(&[axis(0)?, axis(1)?], 1)?
        };
        let angles = coordinates
            .f_mul_scalar(2.0 * std::f64::consts::PI)?
            .f_unsqueeze(2)?
            .f_mul(&self.frequencies)? // [T, 2, d/4]
            .f_flatten(1, 2)?
            .f_repeat([1, 2])?; // [T, d]
        Ok(Tensor::f_stack(&[angles.f_cos()?, angles.f_sin()?], 0)?)
    }

    /// The angles of the coordinates as they are.
    fn plain(&mut self) -> Result<Tensor> {
        let table = match self.plain.take() {
            Some(table) => table,
            None => self.angles(([0.0; 2], [1.0; 2]))?,
        };
        Ok(self.plain.insert(table).shallow_clone())
    }
}

impl RotaryEmbedding {
    /// A rotary embedding with the given options.
    pub fn new(options: &RotaryOptions) -> Result<Self> {
        ensure!(
            options.head_size > 0 && options.head_size % 4 == 0,
            "rotary embedding needs a head_size that is a positive multiple of 4, found {}",
            options.head_size
        );
        Ok(Self {
            options: options.clone(),
            images_per_draw: None,
            training: Cell::new(true),
            grid: RefCell::new(None),
        })
    }

    /// The rotary embedding of an architecture; `None` if it has none.
    pub fn from_architecture(architecture: &Architecture) -> Result<Option<Self>> {
        let Some(rope_theta) = architecture.rope_theta else { return Ok(None) };
        let rotary = Self::new(&RotaryOptions {
            head_size: architecture.head_size,
            rope_theta,
            pos_embed_shift: architecture.pos_embed_shift,
            pos_embed_jitter: architecture.pos_embed_jitter,
            pos_embed_rescale: architecture.pos_embed_rescale,
        })?;
        let images_per_draw = architecture.pos_embed_images_per_draw.map(|n| n as usize);
        Ok(Some(Self { images_per_draw, ..rotary }))
    }

    /// Training draws the coordinate augmentation, evaluation does not.
    pub fn set_training(&self, training: bool) {
        self.training.set(training);
    }

    /// A short text for printing, as [`super::Module::describe`].
    pub fn describe(&self) -> String {
        format!("rotary_embedding(head_size {}, rope_theta {})", self.options.head_size, self.options.rope_theta)
    }

    /// Cosines and sines [2, rows · columns, d], float32 on the run's device; in training, of one draw of the
    /// coordinate augmentation.
    pub fn angles(&self, (rows, columns): (i64, i64)) -> Result<Tensor> {
        ensure!(rows > 0 && columns > 0, "a patch grid needs positive sides, found {rows} x {columns}");
        match self.augments().then(|| self.draw(random::next_key())) {
            Some(draw) => self.of_grid((rows, columns), |grid| grid.angles(draw)),
            None => self.of_grid((rows, columns), Grid::plain),
        }
    }

    /// The angles for a batch of `images`: [2, T, d] if they have one draw, or [2, B, 1, T, d]. Which images share a
    /// draw depends on their positions in the global batch, not on the process or micro-batch that computes them.
    pub fn angles_of_batch(&self, grid: (i64, i64), images: usize) -> Result<Tensor> {
        let Some(images_per_draw) = self.images_per_draw.filter(|_| self.augments() && images > 0) else {
            return self.angles(grid);
        };
        let (key, positions) = random::next_key_of(images);
        let draws: Vec<usize> = (0..images).map(|i| positions.at(i) / images_per_draw).collect();
        let mut different = draws.clone();
        different.sort_unstable();
        different.dedup();
        // The first draw is the one of a step that has no other.
        let key_of = |draw: usize| if draw == 0 { key } else { key.fold(draw as u64) };
        let tables = different.iter().map(|draw| {
            let draw = self.draw(key_of(*draw));
            self.of_grid(grid, |grid| grid.angles(draw))
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        if let [table] = &tables[..] {
            return Ok(table.shallow_clone());
        }
        let rows = draws.iter().map(|draw| different.binary_search(draw).expect("one of them") as i64);
        let rows = upload(&Tensor::f_from_slice(&rows.collect::<Vec<_>>())?, tables[0].device())?;
        Ok(Tensor::f_stack(&tables, 1)?.f_index_select(1, &rows)?.f_unsqueeze(2)?)
    }

    fn augments(&self) -> bool {
        let o = &self.options;
        let augments = o.pos_embed_shift.is_some() || o.pos_embed_jitter.is_some() || o.pos_embed_rescale.is_some();
        self.training.get() && augments
    }

    fn draw(&self, key: Key) -> Draw {
        let o = &self.options;
        let mut rng = key.rng();
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

    /// Does something with the grid of these sides, which is made if it is not the last one.
    fn of_grid<T>(&self, sides: (i64, i64), action: impl FnOnce(&mut Grid) -> Result<T>) -> Result<T> {
        let mut last = self.grid.borrow_mut();
        if let Some(grid) = last.as_mut().filter(|grid| grid.sides == sides) {
            return action(grid);
        }
        action(last.insert(self.new_grid(sides)?))
    }

    fn new_grid(&self, (rows, columns): (i64, i64)) -> Result<Grid> {
        let cpu = tch::kind::FLOAT_CPU;
        let axis = |n: i64| -> Result<Tensor> {
            let centre = Tensor::f_arange_start(0.5, n as f64, cpu)?.f_div_scalar(n as f64)?;
            Ok(centre.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?)
        };
        let y = axis(rows)?.f_unsqueeze(1)?.f_expand([rows, columns], false)?.f_reshape([-1])?;
        let x = axis(columns)?.f_unsqueeze(0)?.f_expand([rows, columns], false)?.f_reshape([-1])?;
        let (step, count) = (4.0 / self.options.head_size as f64, self.options.head_size / 4);
        // Rounding may make it one longer, as for heads 196 wide.
        let exponents = Tensor::f_arange_start_step(0.0, 1.0, step, cpu)?.f_narrow(0, 0, count)?;
        let frequencies = Tensor::f_pow_scalar(self.options.rope_theta, &exponents)?.f_reciprocal()?;
        let on_device = |tensor: Tensor| upload(&tensor, device::current());
        Ok(Grid {
            sides: (rows, columns),
            coordinates: on_device(Tensor::f_stack(&[y, x], 1)?)?,
            frequencies: on_device(frequencies)?,
            plain: None,
        })
    }
}

/// Whether angles are those of so many images with so many tokens, of which the last ones are patches, and heads of this
/// width, which has two halves.
pub(super) fn angles_fit(angles: &Tensor, images: i64, tokens: i64, head: i64) -> bool {
    let size = angles.size();
    (size.len() == 3 && size[0] == 2 || size.len() == 5 && size[..3] == [2, images, 1])
        && size[size.len() - 2] <= tokens
        && size[size.len() - 1] == head
        && head % 2 == 0
}

/// Rotates the last T tokens of `x` [B, H, N, d] by `angles` [2, T, d], or [2, B, 1, T, d] with angles of their own for
/// each image, half-split kind; the tokens before them stay as they are.
pub fn apply_rotary(x: &Tensor, angles: &Tensor) -> Result<Tensor> {
    ensure!(x.dim() == 4, "expected queries or keys [B, H, N, d], found {}", crate::tensor::shape_text(x));
    ensure!(x.size()[3] % 2 == 0, "rotary angles turn pairs: expected heads of an even width, found {}", x.size()[3]);
    let (tokens, size) = (x.size()[2], angles.size());
    ensure!(
        angles_fit(angles, x.size()[0], tokens, x.size()[3]),
        "expected rotary angles [2, T, {}] for T of at most {tokens} tokens, found {}",
        x.size()[3],
        crate::tensor::shape_text(angles)
    );
    let patches = size[size.len() - 2];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::positions::Positions;
    use crate::random::State;
    use std::collections::HashMap;

    /// Forward passes of the reference in training (tests/fixtures/reference).
    #[test]
    fn what_is_drawn_turns_coordinates_as_in_the_reference() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/reference/positions");
        let facts: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(format!("{dir}.json")).unwrap()).unwrap();
        let tensors: HashMap<String, Tensor> =
            Tensor::read_safetensors(format!("{dir}.safetensors")).unwrap().into_iter().collect();
        let rotary = RotaryEmbedding::new(&RotaryOptions { head_size: 8, ..Default::default() }).unwrap();
        let passes = facts.as_array().unwrap();
        assert_eq!(passes.len(), 4);
        for (i, pass) in passes.iter().enumerate() {
            let number = |v: &serde_json::Value| v.as_f64().unwrap();
            let both = |name: &str| [0, 1].map(|axis| number(&pass[name][axis]));
            let rescale = number(&pass["log_rescale"]).exp();
            let factors = both("log_jitter").map(|jitter| jitter.exp() * rescale);
            let found = rotary.of_grid((3, 3), |grid| grid.angles((both("shift"), factors))).unwrap();
            for (part, name) in [(0, "cos"), (1, "sin")] {
                let off = (found.get(part) - &tensors[&format!("{name}.{i}")]).abs().max().double_value(&[]);
                assert!(off < 2e-6, "{name} of pass {i}: {off}");
            }
        }
    }

    #[test]
    fn images_share_draws_by_their_positions_in_the_global_batch() {
        let options = RotaryOptions { head_size: 8, pos_embed_rescale: Some(2.0), ..Default::default() };
        let rotary = RotaryEmbedding { images_per_draw: Some(4), ..RotaryEmbedding::new(&options).unwrap() };
        let angles = |samples: Positions, n| {
            random::set_state(State { seed: 1, drawn: 0, samples });
            rotary.angles_of_batch((2, 2), n).unwrap()
        };
        let whole = angles(Positions::default(), 11);
        assert_eq!(whole.size(), [2, 11, 1, 4, 8]);
        let of = |i: i64| whole.select(1, i).squeeze_dim(1);
        for i in 0..11 {
            assert_eq!(of(i), of(i / 4 * 4), "{i}");
        }
        assert!(of(0) != of(4) && of(4) != of(8) && of(0) != of(8));
        // Parts of it, of one draw and of several; the first draw is that of a step without others.
        assert_eq!(angles(Positions::run(4, 4), 4), of(4));
        assert_eq!(angles(Positions::run(9, 2), 2), of(8));
        assert_eq!(angles(Positions::run(6, 3), 3), whole.narrow(1, 6, 3));
        // Two images for each sample.
        assert_eq!(angles(Positions::run(2, 3), 6), whole.narrow(1, 4, 6));
        random::set_state(State { seed: 1, drawn: 0, samples: Positions::default() });
        assert_eq!(rotary.angles((2, 2)).unwrap(), of(0));
        rotary.set_training(false);
        assert_eq!(angles(Positions::default(), 11).size(), [2, 4, 8]);
    }

    #[test]
    fn each_image_is_turned_by_its_own_angles() {
        let x = crate::random::Key::new(3).normal(&[3, 2, 5, 8]).unwrap();
        let angles = crate::random::Key::new(4).normal(&[2, 3, 1, 4, 8]).unwrap();
        let all = apply_rotary(&x, &angles).unwrap();
        for i in 0..3 {
            let alone = apply_rotary(&x.narrow(0, i, 1), &angles.select(1, i).squeeze_dim(1)).unwrap();
            assert_eq!(all.narrow(0, i, 1), alone);
        }
        let error = apply_rotary(&x, &angles.narrow(1, 0, 2)).unwrap_err().to_string();
        assert!(error.contains("expected rotary angles [2, T, 8]") && error.contains("[2, 2, 1, 4, 8]"), "{error}");
    }
}
