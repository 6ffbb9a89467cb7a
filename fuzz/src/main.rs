//! All targets in one program, so that the crates below are linked once; the environment variable
//! `NEPA_FUZZ_TARGET` chooses. `cargo xtask fuzz TARGET` starts it with its seeds and limits.

#![no_main]

mod targets;

use libfuzzer_sys::fuzz_target;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::OnceCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use targets::{Bench, Target};

/// No input of the fuzzer is larger than 1 MB, and none of that size may make a reader ask for more than this.
const MOST: usize = 1 << 30;

/// The system's allocator, which ends the process where more than [`MOST`] is asked for, at once or in all.
struct Bounded;

static HELD: AtomicUsize = AtomicUsize::new(0);

fn take(bytes: usize) {
    if HELD.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > MOST {
        // To say it takes memory as well.
        HELD.store(0, Ordering::Relaxed);
        eprintln!("a reader asks for {bytes} bytes, and for more than {MOST} with those that it holds");
        std::process::abort();
    }
}

// SAFETY: as the system's.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

struct Chosen {
    target: &'static Target,
    bench: Bench,
}

impl Chosen {
    fn new() -> Self {
        targets::end_at_own_panics();
        let name = std::env::var("NEPA_FUZZ_TARGET").unwrap_or_default();
        let names: Vec<&str> = targets::TARGETS.iter().map(|target| target.name).collect();
        let Some(target) = targets::TARGETS.iter().find(|target| target.name == name) else {
            eprintln!("NEPA_FUZZ_TARGET is \"{name}\", expected one of: {}", names.join(", "));
            std::process::exit(2);
        };
        Self { target, bench: Bench::new() }
    }
}

thread_local! {
    static CHOSEN: OnceCell<Chosen> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    CHOSEN.with(|chosen| {
        let Chosen { target, bench } = chosen.get_or_init(Chosen::new);
        (target.read)(bench, bytes);
    });
});
