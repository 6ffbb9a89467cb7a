//! Sources of sources.

use super::*;
use crate::error::bail;
use crate::random::{Key, Purpose};

fn some(len: usize, classes: usize) -> SourceRef {
    let options = SyntheticOptions { len, classes, size: 4, ..Default::default() };
    std::sync::Arc::new(Synthetic::new(&options).unwrap())
}

/// The indices that a subset took from synthetic images.
fn indices(source: &SourceRef) -> Vec<usize> {
    names(&**source).iter().map(|n| n.rsplit('/').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn parts_are_disjoint_complete_and_follow_the_seed() {
    let all = some(100, 3);
    let (a, b) = split(&all, 0.25, 7).unwrap();
    assert_eq!((a.len(), b.len()), (25, 75));
    assert!(indices(&a).is_sorted() && indices(&b).is_sorted());
    let mut both = [indices(&a), indices(&b)].concat();
    assert_ne!(both, (0..100).collect::<Vec<_>>());
    both.sort();
    assert_eq!(both, (0..100).collect::<Vec<_>>());
    assert_eq!(indices(&split(&all, 0.25, 7).unwrap().0), indices(&a));
    assert_ne!(indices(&split(&all, 0.25, 8).unwrap().0), indices(&a));
    for fraction in [0.0, 1.0, 0.001, -0.5, 1.5, f64::NAN] {
        complains(split(&all, fraction, 0), &["leaves one part empty"]);
    }
    // The permutation of the seed.
    let mut chosen = Key::of(Purpose::Split, 7).permutation(100).unwrap()[..25].to_vec();
    chosen.sort();
    assert_eq!(indices(&a), chosen.iter().map(|i| *i as usize).collect::<Vec<_>>());
}

#[test]
fn every_class_gives_the_same_number() {
    let all = some(100, 3);
    let part = per_class(&all, 5, 1).unwrap();
    assert_eq!(part.len(), 15);
    assert!(indices(&part).is_sorted());
    assert!((0..3).all(|class| labels(&*part).iter().filter(|l| **l == class).count() == 5));
    assert_ne!(indices(&part), indices(&per_class(&all, 5, 2).unwrap()));
    complains(per_class(&all, 34, 1), &["34 items of every class", "`1` has 33"]);
    complains(per_class(&all, 0, 1), &["at least 1"]);
}

#[test]
fn items_are_taken_chosen_and_filtered() {
    let all = some(20, 4);
    assert_eq!(indices(&take(&all, 3).unwrap()), [0, 1, 2]);
    complains(take(&all, 21), &["1..=20", "found 21"]);
    complains(take(&all, 0), &["found 0"]);
    let chosen = subset(&all, &[7, 2, 7]).unwrap();
    assert_eq!((indices(&chosen), labels(&*chosen)), (vec![7, 2, 7], vec![3, 2, 3]));
    assert_eq!(chosen.shape(), Some([3, 4, 4]));
    complains(subset(&all, &[1, 20]), &["no item 20", "0..=19"]);
    complains(subset(&all, &[]), &["at least 1"]);
    let odd = filter(&all, |index, label, name| Ok(label % 2 == 1 && index > 4 && !name.ends_with("9"))).unwrap();
    assert_eq!(indices(&odd), [5, 7, 11, 13, 15, 17]);
    complains(filter(&all, |_, _, _| Ok(false)), &["none of the 20"]);
    complains(filter(&all, |_, _, _| bail!("stop")), &["stop"]);
    assert_eq!(subset(&odd, &[1]).unwrap().describe(), "1 of 6 of synthetic images (seed 0)");
}

#[test]
fn sources_are_joined() {
    let (a, b) = (some(5, 4), take(&some(20, 4), 7).unwrap());
    let all = concat(&[a.clone(), b.clone(), a.clone()]).unwrap();
    assert_eq!(all.len(), 17);
    assert_eq!(labels(&*all), [labels(&*a), labels(&*b), labels(&*a)].concat());
    assert_eq!(indices(&all), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]);
    let mut unique = names(&*all);
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), 17);
    assert_eq!(all.shape(), Some([3, 4, 4]));
    complains(concat(&[a, some(5, 3)]), &["class 3 is `3` in one and none in the other", "4 and 3 classes"]);
    complains(concat(&[]), &["at least one"]);
}

#[test]
fn synthetic_pictures_follow_seed_and_index_alone() {
    let pixels = |options: &SyntheticOptions, index: usize| match Synthetic::new(options).unwrap().read(index).unwrap()
    {
        StoredImage::Pixels(image) => image,
        StoredImage::Encoded(_) => panic!("encoded"),
    };
    let options = SyntheticOptions { size: 30, ..Default::default() };
    let image = pixels(&options, 3);
    assert_eq!((image.width, image.height, image.channels), (30, 30, 3));
    assert_eq!(image, pixels(&SyntheticOptions { len: 4, ..options.clone() }, 3));
    assert_ne!(image, pixels(&options, 13));
    assert_ne!(image, pixels(&SyntheticOptions { seed: 1, ..options.clone() }, 3));
    assert_eq!(pixels(&SyntheticOptions { channels: 1, size: 7, ..options.clone() }, 0).data.len(), 49);
    // Images of a class are nearer to each other than to others.
    let distance = |a: usize, b: usize| -> u64 {
        let (a, b) = (pixels(&options, a), pixels(&options, b));
        a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b) as u64).sum()
    };
    assert!((1..10).all(|other| distance(0, 10) < distance(0, other)));
    complains(Synthetic::new(&SyntheticOptions { channels: 2, ..options }), &["1 or 3", "found 2"]);
}
