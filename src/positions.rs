//! Where the images of one process, or of one of its micro-batches, are in the global batch: the one that all processes
//! compute together.

/// Groups of so many neighbours in the global batch, from its beginning on, of which the last holds what is left; an even
/// number. The images of a group are mixed with each other, each with its partner: the one as far from the group's end as
/// it is from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups(usize);

impl Groups {
    /// Groups of `size` images, an even number.
    pub fn of(size: usize) -> Self {
        assert!(size >= 2 && size.is_multiple_of(2), "a group of {size} images");
        Self(size)
    }

    /// All images of the global batch.
    pub const WHOLE: Self = Self(usize::MAX - 1);

    /// The group of position `i` in a batch of `size` images: its number, and its positions.
    pub fn around(self, i: usize, size: usize) -> (usize, std::ops::Range<usize>) {
        let number = i / self.0;
        (number, number * self.0..size.min((number * self.0).saturating_add(self.0)))
    }

    /// The partner of position `i` in a batch of `size` images.
    pub fn partner(self, i: usize, size: usize) -> usize {
        let (_, group) = self.around(i, size);
        group.end - 1 - (i - group.start)
    }
}

/// Positions in the global batch: at most three runs of neighbours, each (first, length). None at all means the first
/// ones, as many as there are images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions([(usize, usize); 3]);

impl Positions {
    /// `length` positions from `first` on.
    pub const fn run(first: usize, length: usize) -> Self {
        Self([(first, length), (0, 0), (0, 0)])
    }

    /// These runs one after the other, without empty ones; two become one where the second starts where the first ends.
    fn joined(runs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let (mut all, mut count) = ([(0, 0); 3], 0);
        for (first, length) in runs.into_iter().filter(|run| run.1 > 0) {
            match all[..count].last_mut() {
                Some(last) if last.0 + last.1 == first => last.1 += length,
                _ => {
                    all[count] = (first, length);
                    count += 1;
                }
            }
        }
        Self(all)
    }

    /// The positions in a batch of `size` images that rank `rank` of `world` computes; none if there are too few.
    ///
    /// They are neighbours. Where images are `mixed`, partners are on one process; an image that is its own partner is
    /// the last rank's.
    pub fn of_process(size: usize, rank: usize, world: usize, mixed: Option<Groups>) -> Self {
        let Some(groups) = mixed else {
            let cut = |r: usize| r * size / world;
            return Self::run(cut(rank), cut(rank + 1) - cut(rank));
        };
        // Pairs count group by group, in each from the outside to the inside. Rounded up, so that the last process,
        // which has the image in the middle, has no more than the others.
        let cut = |r: usize| (r * size).div_ceil(2 * world).min(size / 2);
        let pairs_of_group = groups.0 / 2;
        let place = |pair: usize| (pair % pairs_of_group, groups.around(2 * (pair - pair % pairs_of_group), size).1);
        let (from, to) = (cut(rank), cut(rank + 1));
        let (outside, first) = place(from);
        // What is left of the first group when the pairs before are taken.
        let inside = (first.start + outside, first.len() - 2 * outside);
        if rank + 1 == world {
            return Self::joined([inside, (first.end, size - first.end)]);
        }
        if from == to {
            return Self::default();
        }
        let (end, last) = place(to - 1);
        let end = end + 1;
        if first == last {
            let pairs = to - from;
            return Self::joined([(inside.0, pairs), (first.end - outside - pairs, pairs)]);
        }
        Self::joined([inside, (first.end, last.start + end - first.end), (last.end - end, end)])
    }

    /// The positions of the rows of these where every position has `k` rows, side by side.
    pub fn times(&self, k: usize) -> Self {
        Self(self.0.map(|(first, length)| (first * k, length * k)))
    }

    /// The runs that hold anything, each (first, length).
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.into_iter().filter(|run| run.1 > 0)
    }

    /// How many positions.
    pub fn len(&self) -> usize {
        self.0.iter().map(|run| run.1).sum()
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
        let mut i = i;
        for (first, length) in self.runs() {
            if i < length {
                return first + i;
            }
            i -= length;
        }
        panic!("there are only {} positions", self.len());
    }

    /// `length` of these positions from number `start` on.
    pub fn part(&self, start: usize, length: usize) -> Self {
        let mut before = 0;
        Self::joined(self.0.map(|(first, n)| {
            let (from, to) = (start.clamp(before, before + n), (start + length).clamp(before, before + n));
            let cut = (first + from - before, to - from);
            before += n;
            cut
        }))
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
        let ways = [None, Some(Groups::WHOLE)].into_iter().chain([2, 4, 6, 16, 50, 64].map(|n| Some(Groups::of(n))));
        for mixed in ways {
            for size in 0..50 {
                for world in 1..9 {
                    let parts: Vec<_> =
                        (0..world).map(|rank| all(Positions::of_process(size, rank, world, mixed))).collect();
                    let mut together = parts.concat();
                    together.sort_unstable();
                    assert_eq!(together, (0..size).collect::<Vec<_>>(), "{size} {world} {mixed:?}");
                    let unit = if mixed.is_some() { 2 } else { 1 };
                    for part in parts {
                        let most = size.div_ceil(unit * world) * unit;
                        assert!(part.len() <= most, "{size} {world} {mixed:?}: {part:?}");
                        assert!(!size.is_multiple_of(unit * world) || part.len() == size / world);
                        let Some(groups) = mixed else { continue };
                        let mut partners: Vec<_> = part.iter().map(|i| groups.partner(*i, size)).collect();
                        partners.sort_unstable();
                        assert_eq!(partners, part, "{size} {world} {mixed:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn partners_are_opposite_in_their_group() {
        let partners = |groups: Groups, size| (0..size).map(|i| groups.partner(i, size)).collect::<Vec<_>>();
        assert_eq!(partners(Groups::of(4), 11), [3, 2, 1, 0, 7, 6, 5, 4, 10, 9, 8]);
        assert_eq!(partners(Groups::of(128), 3), [2, 1, 0]);
        assert_eq!(partners(Groups::WHOLE, 5), [4, 3, 2, 1, 0]);
        assert_eq!(Groups::of(4).around(9, 11), (2, 8..11));
    }

    #[test]
    fn parts_are_the_positions_in_order() {
        let three = Positions::of_process(24, 1, 4, Some(Groups::of(8)));
        assert_eq!(all(three), [3, 4, 8, 9, 14, 15]);
        for positions in [Positions::run(3, 9), Positions::of_process(20, 1, 3, Some(Groups::WHOLE)), three] {
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
    fn rows_of_a_position_lie_side_by_side() {
        let three = Positions::of_process(24, 1, 4, Some(Groups::of(8)));
        assert_eq!(all(three.times(2)), [6, 7, 8, 9, 16, 17, 18, 19, 28, 29, 30, 31]);
        assert_eq!(three.times(1), three);
        assert!(three.times(0).is_empty());
    }

    #[test]
    fn runs_that_touch_are_one() {
        assert_eq!(Positions::joined([(0, 4), (4, 2)]), Positions::run(0, 6));
        assert_eq!(Positions::joined([(5, 0), (4, 2)]), Positions::run(4, 2));
        assert_eq!(Positions::of_process(8, 0, 1, Some(Groups::WHOLE)), Positions::run(0, 8));
    }
}
