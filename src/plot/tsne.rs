//! t-SNE: features as points of the plane, neighbours beside each other.

use crate::error::{Context as _, Result, bail, ensure};
use crate::options;
use crate::tensor::{shape_text, topk};
use bhtsne::{Neighbor, tSNE};
use std::sync::mpsc::{Sender, channel};
use tch::{Kind, Tensor};

options! {
    /// How points are laid out.
    pub struct TsneOptions {
        /// About how many neighbours each point has.
        perplexity: f64 = 30.0,
        /// Steps of gradient descent.
        epochs: u64 = 1000,
    }
}

/// What Barnes and Hut's approximation leaves out: less is more exact, and slower.
const THETA: f32 = 0.5;
/// Rows whose neighbours are looked for at once.
const CHUNK: i64 = 1024;

/// Points [n, 2] for features [n, D], both float32: Barnes-Hut t-SNE (van der Maaten 2014) of Euclidean distances, from
/// the two first principal components (Kobak and Berens 2019), so that nothing is random. `step` is told of each epoch.
/// Points of another order are laid out otherwise.
pub fn tsne(features: &Tensor, options: &TsneOptions, mut step: impl FnMut()) -> Result<Tensor> {
    ensure!(features.dim() == 2, "plot::tsne: expected features [n, D], found {}", shape_text(features));
    let n = features.size()[0];
    let perplexity = options.perplexity;
    ensure!(perplexity >= 1.0, "plot::tsne: perplexity: expected at least 1, found {perplexity}");
    ensure!(
        n as f64 > 3.0 * perplexity + 1.0,
        "plot::tsne: perplexity {perplexity} needs more than {} features, found {n}",
        (3.0 * perplexity + 1.0).floor()
    );
    let x = features.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?;
    ensure!(bool::try_from(x.f_isfinite()?.f_all()?)?, "plot::tsne: the features hold NaN or infinite values");
    ensure!(!bool::try_from(x.f_eq_tensor(&x.f_narrow(0, 0, 1)?)?.f_all()?)?, "plot::tsne: all {n} features are alike");
    let neighbours = neighbours(&x, (3.0 * perplexity) as i64)?;
    let start = Vec::<f32>::try_from(&principal(&x)?.f_contiguous()?.f_view(-1)?)?;
    let epochs = options.epochs as usize;
    // The crate's threads add up in the order in which they happen to finish, and what they round grows with the epochs.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let points = std::thread::scope(|scope| {
        let (tell, told) = channel();
        let laid_out = scope.spawn(move || pool.install(|| layout(&neighbours, perplexity, epochs, start, tell)));
        told.into_iter().for_each(|()| step());
        laid_out.join()
    });
    let Ok(points) = points else { bail!("plot::tsne: the features could not be laid out") };
    ensure!(
        points.iter().all(|place| place.is_finite()),
        "plot::tsne: the features could not be laid out: too many of the {n} are alike, or they differ too much in size"
    );
    Ok(Tensor::f_from_slice(&points)?.f_view([n, 2])?)
}

/// Points, x and y in turns, from `start` on; `tell` hears of each epoch.
fn layout(
    neighbours: &[Vec<Neighbor<f32>>],
    perplexity: f64,
    epochs: usize,
    start: Vec<f32>,
    tell: Sender<()>,
) -> Vec<f32> {
    // The crate asks for the data, but computes with their neighbours alone.
    let rows: Vec<usize> = (0..neighbours.len()).collect();
    let mut layout: tSNE<'_, f32, usize, 2> = tSNE::new(&rows);
    layout.perplexity(perplexity as f32).epochs(epochs).initial_embedding(start);
    // Nobody listens any more if the process ends.
    layout.epoch_callback(move |_, _| tell.send(()).unwrap_or_default());
    layout.barnes_hut_with_neighbors(THETA, neighbours);
    layout.embedding()
}

/// The k nearest of each row, nearest first, without itself.
fn neighbours(x: &Tensor, k: i64) -> Result<Vec<Vec<Neighbor<f32>>>> {
    let n = x.size()[0];
    let mut all = Vec::with_capacity(n as usize);
    for start in (0..n).step_by(CHUNK as usize) {
        let rows = x.f_narrow(0, start, CHUNK.min(n - start))?;
        // By differences: that of squares loses what tells near rows apart.
        let mut distances = Tensor::f_cdist(&rows, x, 2.0, 2)?;
        let diagonal = distances.f_narrow(1, start, rows.size()[0])?;
        let _ = diagonal.f_diagonal(0, 0, 1)?.f_fill_(f64::INFINITY)?;
        distances = distances.f_neg()?;
        let (values, indices) = topk(&distances, k)?;
        let (values, indices) = (values.f_neg()?.f_contiguous()?.f_view(-1)?, indices.f_contiguous()?.f_view(-1)?);
        let (values, indices) = (Vec::<f32>::try_from(&values)?, Vec::<i64>::try_from(&indices)?);
        let pairs: Vec<Neighbor<f32>> = indices
            .into_iter()
            .zip(values)
            .map(|(index, distance)| Neighbor { index: index as usize, distance })
            .collect();
        all.extend(pairs.chunks(k as usize).map(<[_]>::to_vec));
    }
    Ok(all)
}

/// The first two principal components [n, 2], small enough for a start: the first has deviation 1e-4.
fn principal(x: &Tensor) -> Result<Tensor> {
    let centred = x.f_sub(&x.f_mean_dim(0, true, Kind::Float)?)?.f_to_kind(Kind::Double)?;
    let covariance = centred.f_transpose(0, 1)?.f_matmul(&centred)?;
    let (_, vectors) = covariance.f_linalg_eigh("L").context("plot::tsne: no principal components")?;
    let width = vectors.size()[1];
    ensure!(width >= 2, "plot::tsne: expected features of at least 2 numbers, found {width}");
    // In ascending order. An eigenvector's sign is anyone's choice: here its largest component is positive.
    let first = vectors.f_narrow(1, width - 2, 2)?.f_flip([1])?;
    let largest = first.f_abs()?.f_argmax(0, true)?;
    let first = first.f_mul(&first.f_gather(0, &largest, false)?.f_sign()?)?;
    let points = centred.f_matmul(&first)?;
    let deviation = points.f_select(1, 0)?.f_std(true)?.f_clamp_min(1e-12)?;
    Ok(points.f_div(&deviation)?.f_mul_scalar(1e-4)?.f_to_kind(Kind::Float)?)
}
