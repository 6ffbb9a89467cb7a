//! The readers of files from elsewhere, on damaged ones: what `cargo xtask fuzz` looks for at length, in short. An
//! error is an answer; a panic, an abort or a request for more than a gigabyte is a fault.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use crate::common::{alone, repository};
use std::path::PathBuf;
use targets::{Bench, TARGETS, Target};

/// The lines of seeds.txt: a target and its files.
fn seeds() -> Vec<(&'static str, Vec<PathBuf>)> {
    let lines = include_str!("../../fuzz/seeds.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap();
            let patterns = words.map(str::to_string).chain([format!("fuzz/seeds/{name}/*")]);
            let files = patterns.flat_map(|pattern| glob::glob(&repository(&pattern).to_string_lossy()).unwrap());
            (name, files.map(Result::unwrap).collect())
        })
        .collect()
}

/// Draws that are always the same.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Numbers that lengths, counts and offsets are seldom, in 1, 2, 4 or 8 bytes.
fn extreme(draws: &mut Draws, size: usize) -> Vec<u8> {
    let all =
        [0, 1, -1, -2, i64::MIN, i64::MAX, i32::MIN as i64, i32::MAX as i64, size as i64, size as i64 + 1, 1 << 30];
    let value = all[draws.below(all.len())];
    let width = [1, 2, 4, 8][draws.below(4)];
    match draws.below(2) {
        // The upper bytes of the widest, so that `i64::MIN` is negative in any width.
        0 if value == i64::MIN || value == i64::MAX => value.to_be_bytes()[..width].to_vec(),
        0 => value.to_be_bytes()[8 - width..].to_vec(),
        _ => value.to_le_bytes()[..width].to_vec(),
    }
}

/// A damaged copy of one of the files.
fn damaged(files: &[Vec<u8>], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = files[draws.below(files.len())].clone();
    for _ in 0..1 + draws.below(3) {
        let at = draws.below(bytes.len());
        match draws.below(8) {
            0 => bytes.truncate(at),
            1 | 2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << draws.below(8)),
            3 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = draws.next() as u8),
            4 | 5 => {
                let number = extreme(draws, bytes.len());
                bytes.iter_mut().skip(at).zip(number).for_each(|(byte, new)| *byte = new);
            }
            6 => {
                let end = (at + 1 + draws.below(64)).min(bytes.len());
                drop(bytes.drain(at.min(end)..end));
            }
            _ => {
                let other = &files[draws.below(files.len())];
                let from = draws.below(other.len());
                let part = &other[from..(from + 1 + draws.below(256)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
        }
    }
    bytes
}

/// From here on, this process cannot have more than a gigabyte of further memory.
fn limit_memory() {
    #[cfg(target_os = "linux")]
    {
        let pages: u64 =
            std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
        // And what the allocators of a few threads set aside.
        let most = pages * 4096 + (1 << 30) + (1 << 28);
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: a plain struct that is only read.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    }
}

/// Gives a target its seeds, and then damaged ones.
fn torture(target: &Target, bench: &Bench, files: &[PathBuf], times: usize) {
    let files: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(!files.is_empty(), "{} has no seeds", target.name);
    let last = tempfile::Builder::new().prefix("fuzzing-").tempfile().unwrap();
    println!("{}: its last input is kept as {}", target.name, last.path().display());
    let mut draws = Draws(0x9e37_79b9_7f4a_7c15);
    let small: Vec<Vec<u8>> = files.iter().filter(|file| file.len() < 50_000).cloned().collect();
    for bytes in files.iter().cloned().chain((0..times).map(|_| damaged(&small, &mut draws))) {
        // Should the process end.
        std::fs::write(last.path(), &bytes).unwrap();
        (target.read)(bench, &bytes);
    }
}

#[test]
fn every_reader_survives_damaged_files() {
    if !alone("fuzzing::every_reader_survives_damaged_files") {
        return;
    }
    let seeds = seeds();
    assert!(seeds.iter().map(|(name, _)| *name).eq(TARGETS.iter().map(|target| target.name)), "{seeds:?}");
    targets::end_at_own_panics();
    let bench = Bench::new();
    limit_memory();
    for (target, (name, files)) in TARGETS.iter().zip(&seeds) {
        let times = if *name == "recipe" { 100 } else { 300 };
        torture(target, &bench, files, times);
    }
}

#[test]
fn the_decoder_of_jpegs_in_rust_survives_damaged_files() {
    if !alone("fuzzing::the_decoder_of_jpegs_in_rust_survives_damaged_files") {
        return;
    }
    // SAFETY: before any other thread of this process looks.
    unsafe { std::env::set_var("NEPA_LIBJPEG", "none") };
    targets::end_at_own_panics();
    let bench = Bench::new();
    limit_memory();
    let (_, files) = &seeds()[0];
    torture(&TARGETS[0], &bench, files, 300);
}
