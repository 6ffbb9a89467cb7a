//! Randomness that depends on what is drawn, never on when or by which thread.
//!
//! A [`Key`] is folded from a seed and numbers; each key opens its own ChaCha stream. The run's
//! generator hands out keys one after the other: its whole state is a seed and a count.

use crate::error::{Result, bail, ensure};
use crate::positions::Positions;
use rand::{Rng, RngCore, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::cell::Cell;
use tch::Tensor;

/// A node in the tree of random streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

/// What random numbers are drawn for, beside the run's generator. With one seed for all of them, no purpose draws what
/// another one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A loader's epochs: their order, and what the transforms draw.
    Epochs = 1,
    /// The images of a synthetic source.
    SyntheticImages,
    /// The patterns of a synthetic source's classes.
    SyntheticPatterns,
    /// A number of items of each class.
    PerClass,
    /// A source in two parts.
    Split,
    /// Transforms of a single image.
    Image,
    /// Which images `nepa data` looks at.
    Samples,
}

impl Key {
    /// The root key of a seed; below it lie the keys of the run's generator, by number.
    pub fn new(seed: u64) -> Self {
        Key(mix(seed ^ 0x6e65_7061))
    }

    /// The root key of a seed for a purpose. No generator counts as far as the numbers that these have.
    pub fn of(purpose: Purpose, seed: u64) -> Self {
        Self::new(seed).fold(1 << 63 | purpose as u64)
    }

    /// The key below this one with the given number.
    pub fn fold(self, n: u64) -> Self {
        Key(mix(self.0 ^ mix(n.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// The stream of this key.
    pub fn rng(self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.0)
    }

    /// `0..n` in an order that depends on this key alone.
    pub fn permutation(self, n: usize) -> Result<Vec<u32>> {
        let Ok(end) = u32::try_from(n) else {
            bail!("a random order has at most {} numbers, found {n}", u32::MAX);
        };
        let mut order: Vec<u32> = Vec::new();
        ensure!(order.try_reserve_exact(n).is_ok(), "not enough memory for a random order of {n} numbers");
        order.extend(0..end);
        order.shuffle(&mut self.rng());
        Ok(order)
    }

    /// Standard normal float32 values of the given shape, on the CPU.
    pub fn normal(self, shape: &[i64]) -> Result<Tensor> {
        let mut rng = self.rng();
        fill::<f32>(shape, || StandardNormal.sample(&mut rng))
    }

    /// Uniform float32 values in [0, 1) of the given shape, on the CPU.
    pub fn uniform(self, shape: &[i64]) -> Result<Tensor> {
        let mut rng = self.rng();
        fill(shape, || rng.random::<f32>())
    }

    /// Uniform integers in `low..high` of the given shape, int64, on the CPU.
    pub fn integers(self, low: i64, high: i64, shape: &[i64]) -> Result<Tensor> {
        ensure!(low < high, "an empty range of integers: {low}..{high}");
        let mut rng = self.rng();
        fill(shape, || rng.random_range(low..high))
    }
}

/// A tensor of drawn values; one that memory cannot hold is an error, not an abort.
fn fill<T: tch::kind::Element>(shape: &[i64], mut draw: impl FnMut() -> T) -> Result<Tensor> {
    let n = crate::tensor::fits_memory(shape, T::KIND)?;
    let mut values: Vec<T> = Vec::new();
    ensure!(values.try_reserve_exact(n).is_ok(), "not enough memory for a tensor of shape {shape:?}");
    values.extend((0..n).map(|_| draw()));
    Ok(Tensor::f_from_slice(&values)?.f_reshape(shape)?)
}

/// `0..n` in an order that depends on a key alone, computed element by element: no list is kept, and any element is
/// available at once.
///
/// A Feistel network over the least even number of bits that holds n, applied again to what falls outside of it.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    key: Key,
    n: u64,
    half: u32,
}

impl Permutation {
    /// The order of `0..n` that `key` gives.
    pub fn new(key: Key, n: usize) -> Self {
        // Over few bits a Feistel network is not uniform.
        let bits = u64::BITS - (n.max(129) as u64 - 1).leading_zeros();
        Self { key, n: n as u64, half: bits.div_ceil(2) }
    }

    /// The element at index `i`, which is less than n.
    pub fn at(&self, i: usize) -> usize {
        assert!((i as u64) < self.n, "index {i} of a permutation of {}", self.n);
        let mask = (1u64 << self.half) - 1;
        let mut value = i as u64;
        loop {
            let (mut left, mut right) = (value >> self.half, value & mask);
            for round in 0..8u64 {
                (left, right) = (right, left ^ (mix(self.key.0 ^ mix(right | (round + 1) << 56)) & mask));
            }
            value = left << self.half | right;
            if value < self.n {
                return value as usize;
            }
        }
    }
}

/// SplitMix64's finaliser.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The whole state of the run's generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The seed it started from.
    pub seed: u64,
    /// Keys given out so far.
    pub drawn: u64,
    /// Positions in the global batch of the samples of this forward pass: what is drawn for each sample (drop path)
    /// then is what the global batch would have drawn for it.
    pub samples: Positions,
}

thread_local! {
    static GENERATOR: Cell<State> = const { Cell::new(State { seed: 0, drawn: 0, samples: Positions::run(0, 0) }) };
}

/// Restarts the run's generator.
pub fn set_seed(seed: u64) {
    GENERATOR.set(State { seed, drawn: 0, samples: Positions::default() });
}

/// The state of the run's generator.
pub fn state() -> State {
    GENERATOR.get()
}

/// Puts the run's generator back to a state.
pub fn set_state(state: State) {
    GENERATOR.set(state);
}

/// Says which positions in the global batch the samples of the next forward passes have.
pub fn set_samples(samples: Positions) {
    GENERATOR.set(State { samples, ..GENERATOR.get() });
}

/// The next key of the run's generator, to draw for `n` rows of the current forward pass, and where the rows are in the
/// global batch. Where each of its samples has as many rows, they are the sample's, side by side. Other rows are the first
/// ones of their own batch; their key depends on where the samples are, so that no process or micro-batch draws what
/// another one does.
pub fn next_key_of(n: usize) -> (Key, Positions) {
    let (key, samples) = (next_key(), GENERATOR.get().samples);
    match samples.len() {
        0 => (key, Positions::run(0, n)),
        own if n.is_multiple_of(own) => (key, samples.times(n / own)),
        _ => (key.fold(samples.at(0) as u64), Positions::run(0, n)),
    }
}

/// Values of shape `sizes` that `draw` gives for a key, a row for each sample of the current forward pass, or several for
/// each: the one that its position in the global batch ([`next_key_of`]) gives it, whichever process or micro-batch
/// computes it.
pub fn next_per_sample(sizes: &[i64], draw: impl Fn(Key, &[i64]) -> Result<Tensor>) -> Result<Tensor> {
    let [n, row @ ..] = sizes else { bail!("expected the number of samples as the first size, found no sizes") };
    let (key, places) = next_key_of(usize::try_from(*n).unwrap_or(0));
    let all = draw(key, &[&[places.end() as i64], row].concat())?;
    let rows = places.runs().map(|(first, length)| all.f_narrow(0, first as i64, length as i64));
    match &rows.collect::<std::result::Result<Vec<_>, _>>()?[..] {
        [] => Ok(all),
        rows => Ok(Tensor::f_cat(rows, 0)?),
    }
}

/// The run's seed.
pub fn seed() -> u64 {
    GENERATOR.get().seed
}

/// The next key of the run's generator.
pub fn next_key() -> Key {
    let mut g = GENERATOR.get();
    let key = Key::new(g.seed).fold(g.drawn);
    g.drawn += 1;
    GENERATOR.set(g);
    key
}

/// A uniform number in [low, high) from the given stream.
pub fn uniform(rng: &mut impl RngCore, low: f64, high: f64) -> f64 {
    if low < high { rng.random_range(low..high) } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_repeat_and_differ() {
        let a = Key::new(1).fold(2).normal(&[1000]).unwrap();
        let b = Key::new(1).fold(2).normal(&[1000]).unwrap();
        let c = Key::new(1).fold(3).normal(&[1000]).unwrap();
        assert!(a.equal(&b));
        assert!(!a.equal(&c));
        let (mean, std) = (a.mean(None).double_value(&[]), a.std(true).double_value(&[]));
        assert!(mean.abs() < 0.15 && (std - 1.0).abs() < 0.1, "mean {mean}, std {std}");
    }

    #[test]
    fn no_purpose_draws_what_another_does() {
        use Purpose::*;
        let purposes = [Epochs, SyntheticImages, SyntheticPatterns, PerClass, Split, Image, Samples];
        let mut known = std::collections::HashMap::new();
        let mut is_new = |key: Key, of: String| {
            if let Some(other) = known.insert(key.rng().next_u64(), of.clone()) {
                panic!("{of} draws what {other} does");
            }
        };
        for seed in 0..8 {
            is_new(Key::new(seed), format!("seed {seed}"));
            // The run's generator, and what lies below its keys: the draws of groups of images.
            for n in 0..40 {
                let key = Key::new(seed).fold(n);
                is_new(key, format!("seed {seed}, draw {n}"));
                (1..20).for_each(|group| is_new(key.fold(group), format!("seed {seed}, draw {n}, group {group}")));
            }
            for purpose in purposes {
                let root = Key::of(purpose, seed);
                is_new(root, format!("seed {seed}, {purpose:?}"));
                // An epoch, its images, what the batch draws for each; an image, a class.
                for a in 0..20 {
                    is_new(root.fold(a), format!("seed {seed}, {purpose:?} {a}"));
                    for b in (0..20).chain([u64::MAX]) {
                        is_new(root.fold(a).fold(b), format!("seed {seed}, {purpose:?} {a} {b}"));
                        is_new(root.fold(a).fold(b).fold(1), format!("seed {seed}, {purpose:?} {a} {b} 1"));
                    }
                }
            }
        }
    }

    #[test]
    fn an_order_of_more_than_32_bits_is_an_error() {
        let said = Key::new(1).permutation((1 << 32) + 5).unwrap_err().to_string();
        assert_eq!(said, "a random order has at most 4294967295 numbers, found 4294967301");
    }

    #[test]
    fn permutations_hold_every_index_once() {
        let mut order = Key::new(7).permutation(1000).unwrap();
        assert_ne!(order[..10], Key::new(8).permutation(1000).unwrap()[..10]);
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, &v)| i as u32 == v));
    }

    #[test]
    fn computed_permutations_hold_every_index_once_and_are_uniform() {
        for n in [1, 2, 3, 7, 64, 65, 1000] {
            let permutation = Permutation::new(Key::new(3), n);
            let mut order: Vec<usize> = (0..n).map(|i| permutation.at(i)).collect();
            order.sort_unstable();
            assert!(order.iter().enumerate().all(|(i, &v)| i == v), "{n}");
        }
        // Over many keys every value comes to every index equally often, and so does every pair of neighbours.
        let (n, keys) = (6usize, 36_000u64);
        let (mut counts_at, mut pairs) = ([[0u32; 6]; 6], [[0u32; 6]; 6]);
        for seed in 0..keys {
            let permutation = Permutation::new(Key::new(seed), n);
            for (index, counts) in counts_at.iter_mut().enumerate() {
                counts[permutation.at(index)] += 1;
            }
            pairs[permutation.at(0)][permutation.at(1)] += 1;
        }
        // χ² with 25 and 29 degrees of freedom: 99.99 % lie below 61 and 67.
        let chi2 = |found: &mut dyn Iterator<Item = u32>, expected: f64| {
            found.map(|c| (c as f64 - expected).powi(2) / expected).sum::<f64>()
        };
        let indices = chi2(&mut counts_at.iter().flatten().copied(), keys as f64 / 6.0);
        assert!(indices < 61.0, "{indices}");
        let pairs = chi2(&mut pairs.iter().flatten().copied().filter(|c| *c > 0), keys as f64 / 30.0);
        assert!(pairs < 67.0, "{pairs}");
    }

    #[test]
    fn samples_get_the_rows_of_their_positions() {
        let draw = |samples, n| {
            set_state(State { seed: 1, drawn: 0, samples });
            next_per_sample(&[n, 2], Key::uniform).unwrap()
        };
        let first = |n| draw(Positions::default(), n);
        assert!(draw(Positions::run(7, 4), 4).equal(&first(11).narrow(0, 7, 4)));
        // Three rows for each sample.
        assert!(draw(Positions::run(7, 4), 12).equal(&first(33).narrow(0, 21, 12)));
        // Rows that belong to no sample: in no two parts of a batch the same.
        let others = [draw(Positions::run(0, 5), 4), draw(Positions::run(5, 5), 4), first(4)];
        assert!(!others[0].equal(&others[1]) && !others[0].equal(&others[2]) && !others[1].equal(&others[2]));
        assert!(draw(Positions::run(5, 5), 4).equal(&others[1]));
        assert_eq!(first(0).size(), [0, 2]);
    }

    #[test]
    fn the_generator_counts() {
        set_seed(3);
        let (a, b) = (next_key(), next_key());
        set_seed(3);
        assert_eq!((a, b), (next_key(), next_key()));
        assert_ne!(a, b);
    }
}
