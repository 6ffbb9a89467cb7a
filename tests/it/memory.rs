//! The expected memory of a training step beside what is really allocated, as the C library tells of a whole process.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use crate::common::alone;
use nepa::ffi::{self, Autocast};
use nepa::loss::next_embedding;
use nepa::nn::{Activation, Architecture, CostOptions, VitNepa, VitNepaConfig, VitNepaOverrides, set_recompute};
use nepa::optim::{AdamwOptions, Ema, Optimizer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Bytes that are allocated.
fn allocated() -> i64 {
    // SAFETY: a plain question.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as i64
}

fn images(architecture: &Architecture, batch: i64) -> Tensor {
    Tensor::randn([batch, 3, architecture.image_size, architecture.image_size], (Kind::Float, Device::Cpu))
}

fn loss(model: &VitNepa, images: &Tensor, kind: Kind) -> Tensor {
    let _autocast = Autocast::enter(kind).unwrap();
    let out = model.encode(images, None, &Default::default()).unwrap();
    next_embedding(&out.last_hidden_state, &out.input_embedding, &Default::default()).unwrap()
}

/// Bytes that forward keeps for backward, and of the weights in bfloat16.
fn kept(architecture: &Architecture, kind: Kind, batch: i64) -> i64 {
    let images = images(architecture, batch);
    // The first one also makes what libtorch keeps for itself.
    let models = [0, 1].map(|_| VitNepa::new(architecture, VitNepaOverrides::default()).unwrap());
    let [_, second] = models.each_ref().map(|model| {
        let before = allocated();
        let _loss = loss(model, &images, kind);
        allocated() - before
    });
    second
}

/// Bytes that two training steps hold at most.
fn peak(architecture: &Architecture, batch: i64, recompute: bool) -> i64 {
    let images = images(architecture, batch);
    let (before, done) = (allocated(), AtomicBool::new(false));
    let watch = || {
        let mut most = 0;
        while !done.load(Ordering::Relaxed) {
            most = most.max(allocated() - before);
            std::thread::sleep(Duration::from_micros(500));
        }
        most
    };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(watch);
        let model = VitNepa::new(architecture, VitNepaOverrides::default()).unwrap();
        set_recompute(&model, recompute).unwrap();
        let mut adamw = Optimizer::new(&model, &AdamwOptions::default()).unwrap();
        let mut ema = Ema::new(&model, 0.999, Default::default()).unwrap();
        for _ in 0..2 {
            ffi::backward(&loss(&model, &images, Kind::Float)).unwrap();
            adamw.step(&[1e-3; 2], None).unwrap();
            ema.update(None).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    })
}

#[test]
fn the_expected_memory_of_a_step_is_what_it_takes() {
    if !alone("memory::the_expected_memory_of_a_step_is_what_it_takes") {
        return;
    }
    nepa::device::set(Device::Cpu, 2).unwrap();
    let near = |what: &str, expected: i64, found: i64, tolerance: f64| {
        let ratio = expected as f64 / found as f64;
        println!("{what}: expected {expected}, found {found}: {ratio:.3}");
        assert!((1.0 - tolerance..1.0 + tolerance).contains(&ratio), "{what}: expected {expected}, found {found}");
    };

    let small = VitNepaConfig {
        hidden_size: 128,
        num_attention_heads: 2,
        num_hidden_layers: 3,
        layerscale_value: None,
        ..Default::default()
    };
    let gated = VitNepaConfig {
        use_gated_mlp: true,
        hidden_act: Activation::Silu,
        qk_norm: false,
        layerscale_value: Some(1e-5),
        ..small.clone()
    };
    for (what, config) in [("plain", &small), ("gated", &gated)] {
        let architecture = Architecture::new(config).unwrap();
        for kind in [Kind::Float, Kind::BFloat16] {
            let dtype = if kind == Kind::BFloat16 { "bfloat16" } else { "float32" }.to_string();
            let expected = architecture.cost(&CostOptions { batch: 2, dtype, ..Default::default() });
            let found = kept(&architecture, kind, 2);
            near(&format!("{what}, activations of {kind:?}"), expected.memory.activations.unwrap(), found, 0.1);
        }
    }

    let config = VitNepaConfig { hidden_size: 256, num_attention_heads: 4, num_hidden_layers: 4, ..Default::default() };
    let architecture = Architecture::new(&config).unwrap();
    for recompute in [false, true] {
        let expected = architecture.cost(&CostOptions { batch: 8, recompute, ..Default::default() });
        near(
            &format!("peak, recompute {recompute}"),
            expected.memory.total.unwrap(),
            peak(&architecture, 8, recompute),
            0.25,
        );
    }
}

#[test]
fn a_tensor_takes_the_room_of_one_of_its_size_that_went() {
    if !alone("memory::a_tensor_takes_the_room_of_one_of_its_size_that_went") {
        return;
    }
    nepa::device::set(Device::Cpu, 1).unwrap();
    let new = |bytes: i64| Tensor::zeros([bytes], (Kind::Uint8, Device::Cpu));
    // From 32 MiB on, blocks are kept for others of their size; from one size to the next, they are given back.
    for (bytes, alignment) in
        [(1000, 64), (300_000, 64), (25_264_128, 64), (40_000_000, 2 << 20), (90_000_000, 2 << 20)]
    {
        let is_large = bytes > 32 << 20;
        let mut tensors: Vec<Tensor> = (0..3).map(|_| new(bytes)).collect();
        for tensor in &tensors {
            assert_eq!(tensor.data_ptr() as usize % alignment, 0, "{bytes} bytes");
        }
        let (place, before) = (tensors[1].data_ptr(), allocated());
        drop(tensors.remove(1));
        assert_eq!(before - allocated() >= bytes, !is_large, "{bytes} bytes");
        tensors.push(new(bytes));
        assert_eq!(tensors[2].data_ptr(), place, "{bytes} bytes lie elsewhere");
        assert_eq!(tensors[2].sum(Kind::Int64).int64_value(&[]), 0);
        if is_large {
            drop(tensors);
            let before = allocated();
            let other = new(bytes + (4 << 20));
            assert!(allocated() - before < 8 << 20, "nothing was given back for {} bytes", other.numel());
        }
    }
}
