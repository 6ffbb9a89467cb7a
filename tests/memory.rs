//! The expected memory of a training step beside what this process really takes. Alone in its file: it looks at the
//! whole process.
#![cfg(target_os = "linux")]

use nepa::ffi::{self, Autocast};
use nepa::loss::next_embedding;
use nepa::nn::{CostOptions, VitNepa, VitNepaConfig, VitNepaParts, set_recompute};
use nepa::optim::{Adamw, AdamwOptions, Ema};
use tch::{Device, Kind, Tensor};

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> i64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<i64>().unwrap() * 1024
}

/// Bytes by which two training steps raise the process's peak.
fn measured(config: &VitNepaConfig, narrow: bool, o: &CostOptions) -> i64 {
    let images = Tensor::randn([o.batch, 3, config.image_size, config.image_size], (Kind::Float, Device::Cpu));
    std::fs::write("/proc/self/clear_refs", "5").unwrap(); // the peak starts anew
    let before = status("VmRSS:");
    let model = VitNepa::new(config, VitNepaParts::default()).unwrap();
    set_recompute(&model, o.recompute).unwrap();
    let mut adamw = Adamw::new(&model, &AdamwOptions::default()).unwrap();
    let mut ema = Ema::new(&model, 0.999).unwrap();
    for _ in 0..2 {
        let loss = {
            let _autocast = Autocast::enter(if narrow { Kind::BFloat16 } else { Kind::Float }).unwrap();
            let out = model.encode(&images, false, false).unwrap();
            next_embedding(&out.last_hidden_state, &out.input_embedding, &Default::default()).unwrap()
        };
        ffi::backward(&loss).unwrap();
        adamw.step(&[1e-3; 2]).unwrap();
        ema.update().unwrap();
    }
    status("VmHWM:") - before
}

#[test]
fn the_expected_memory_of_a_step_is_what_it_takes() {
    nepa::device::set(Device::Cpu, 2).unwrap();
    let config = VitNepaConfig { hidden_size: 384, num_attention_heads: 6, num_hidden_layers: 6, ..Default::default() };
    for (dtype, recompute) in [("float32", false), ("float32", true)] {
        let options = CostOptions { batch: 8, dtype: dtype.into(), recompute };
        let expected = config.cost(dtype == "bfloat16", &options, false).memory;
        let found = measured(&config, dtype == "bfloat16", &options);
        let ratio = expected.total as f64 / found as f64;
        println!("{dtype}, recompute {recompute}: expected {expected:?}, found {found}: ratio {ratio:.3}");
        assert!((0.8..1.25).contains(&ratio), "{dtype}, recompute {recompute}: expected {expected:?}, found {found}");
    }
}
