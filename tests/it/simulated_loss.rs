//! A GPU that is lost in mid-run, which `tests/simulated-cuda` simulates: what is said, that nothing is lost, and how the
//! process ends.

use crate::common::gpu_faults::{self, Fault};
use crate::common::simulated_cuda::{folder_with, simulated};
use crate::simulated_cuda::in_a_process_with_cuda;

#[test]
fn a_gpu_that_is_lost_at_any_moment_loses_nothing() {
    gpu_faults::at_some_moments(Fault::Lost);
}

/// Memory that the GPU has copied from, such as that of a batch's pixels, is let go of when the GPU is lost already.
#[test]
fn a_script_can_go_on_without_its_gpu() {
    let folder = folder_with(
        r#"
        let loader = data::loader(data::synthetic(#{ len: 64, size: 8 }), [transform::normalize(0.5, 0.5)], #{ batch: 4 });
        try { for batch in loader.epoch(0) { batch.images.sum().item(); } } catch (reason) { print(reason); }
        print("on");
        "#,
    );
    for last in ["0", "1", "2", "3"] {
        let args = ["run", "recipe.rhai", "--device", "cuda", "--threads", "1"];
        let said = simulated(&folder, &[("NEPA_SIMULATED_CUDA_LOST", last)], &args);
        said.succeeds().prints(&["CUDA error: an illegal memory access was encountered", "\non\n"]);
    }
}

#[test]
fn an_error_that_nothing_can_catch_is_told_by_us() {
    const LOST_AT_ONCE: (&str, &str) = ("NEPA_SIMULATED_CUDA_LOST", "0");
    match in_a_process_with_cuda("simulated_loss::an_error_that_nothing_can_catch_is_told_by_us", &[LOST_AT_ONCE]) {
        Some(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(3), "{text}");
            assert!(text.contains("told: CUDA error: an illegal memory access was encountered\n"), "{text}");
        }
        None => {
            nepa::ffi::on_uncaught(|error| {
                println!("told: {}", nepa::error::one_line(&error));
                nepa::ffi::exit(3)
            });
            let host = tch::Tensor::zeros([16], (tch::Kind::Uint8, tch::Device::Cpu)).pin_memory(tch::Device::Cuda(0));
            let mut there = host.internal_to_copy((tch::Kind::Uint8, tch::Device::Cuda(0)), true);
            let _ = there.fill_(1); // the GPU is lost
            // What libtorch does with it now fails, in a destructor.
            drop(host);
        }
    }
}
