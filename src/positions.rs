//! Where the images of one process, or of one of its micro-batches, are in the global batch: the one that all processes
//! compute together.

/// Positions in the global batch: at most two runs of neighbours, each (first, length). None at all means the first
/// ones, as many as there are images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions([(usize, usize); 2]);

impl Positions {
    /// `length` positions from `first` on.
    pub const fn run(first: usize, length: usize) -> Self {
        Self([(first, length), (0, 0)])
    }

    /// One run after the other; they become one where the second starts where the first ends.
    fn two(a: (usize, usize), b: (usize, usize)) -> Self {
        match (a, b) {
            (a, (_, 0)) => Self::run(a.0, a.1),
            ((_, 0), b) => Self::run(b.0, b.1),
            (a, b) if a.0 + a.1 == b.0 => Self::run(a.0, a.1 + b.1),
            (a, b) => Self([a, b]),
        }
    }

    /// The positions in a batch of `size` images that rank `rank` of `world` computes; none if there are too few.
    ///
    /// They are neighbours. Where images are mixed with the one opposite (as far from the end as they are from the
    /// beginning) they are two `mirrored` runs: partners are on one process, and the process's images in reverse order
    /// are the partners of each. An image that is its own partner is the last rank's.
    pub fn of_process(size: usize, rank: usize, world: usize, mirrored: bool) -> Self {
        if !mirrored {
            let cut = |r: usize| r * size / world;
            return Self::run(cut(rank), cut(rank + 1) - cut(rank));
        }
        // Rounded up, so that the last process, which has the image in the middle, has no more than the others.
        let cut = |r: usize| (r * size).div_ceil(2 * world).min(size / 2);
        let first = cut(rank);
        if rank + 1 == world {
            return Self::run(first, size - 2 * first);
        }
        let length = cut(rank + 1) - first;
        Self::two((first, length), (size - first - length, length))
    }

    /// The runs that hold anything, each (first, length).
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.into_iter().filter(|run| run.1 > 0)
    }

    /// How many positions.
    pub fn len(&self) -> usize {
        self.0[0].1 + self.0[1].1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position after the last one.
    pub fn end(&self) -> usize {
        self.runs().map(|(first, length)| first + length).max().unwrap_or(0)
    }

    /// Position number `i` of these.
    pub fn at(&self, i: usize) -> usize {
        let [(a, length), (b, _)] = self.0;
        if i < length { a + i } else { b + (i - length) }
    }

    /// `length` of these positions from number `start` on.
    pub fn part(&self, start: usize, length: usize) -> Self {
        let [(a, n), (b, _)] = self.0;
        let (from, to) = (start.min(n), (start + length).min(n));
        Self::two((a + from, to - from), (b + (start.max(n) - n), length - (to - from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(positions: Positions) -> Vec<usize> {
        let all: Vec<usize> = positions.runs().flat_map(|(first, length)| first..first + length).collect();
        assert_eq!(all, (0..positions.len()).map(|i| positions.at(i)).collect::<Vec<_>>());
        all
    }

    #[test]
    fn processes_divide_a_batch_without_gaps_or_repeats_and_evenly() {
        for size in 0..50 {
            for world in 1..9 {
                for mirrored in [false, true] {
                    let parts: Vec<_> =
                        (0..world).map(|rank| all(Positions::of_process(size, rank, world, mirrored))).collect();
                    let mut together = parts.concat();
                    together.sort_unstable();
                    assert_eq!(together, (0..size).collect::<Vec<_>>(), "{size} {world} {mirrored}");
                    let unit = if mirrored { 2 } else { 1 };
                    for part in parts {
                        let most = size.div_ceil(unit * world) * unit;
                        assert!(part.len() <= most, "{size} {world} {mirrored}: {part:?}");
                        assert!(!size.is_multiple_of(unit * world) || part.len() == size / world);
                        let opposite: Vec<_> = part.iter().map(|i| size - 1 - i).collect();
                        let reversed: Vec<_> = part.iter().rev().copied().collect();
                        assert!(!mirrored || opposite == reversed, "{size} {world}: {part:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn parts_are_the_positions_in_order() {
        for positions in [Positions::run(3, 9), Positions::of_process(20, 1, 3, true), Positions::two((8, 3), (1, 4))] {
            let whole = all(positions);
            for start in 0..=whole.len() {
                for length in 0..=whole.len() - start {
                    assert_eq!(all(positions.part(start, length)), whole[start..start + length]);
                }
            }
            assert_eq!(Some(positions.end()), whole.iter().max().map(|last| last + 1));
        }
    }

    #[test]
    fn runs_that_touch_are_one() {
        assert_eq!(Positions::two((0, 4), (4, 2)), Positions::run(0, 6));
        assert_eq!(Positions::two((5, 0), (4, 2)), Positions::run(4, 2));
        assert_eq!(Positions::of_process(8, 0, 1, true), Positions::run(0, 8));
    }
}
