//! A GPU that is lost in mid-run, which `tests/simulated-cuda` simulates: what is said, that nothing is lost, and how the
//! process ends.

use crate::common::gpu_faults::{self, Fault, folder_with, simulated};
use crate::simulated_cuda::in_a_process_with_cuda;

#[test]
fn a_gpu_that_is_lost_at_any_moment_loses_nothing() {
    gpu_faults::at_some_moments(Fault::Lost);
}

/// Where the process holds memory from which the GPU has copied, such as the next batches.
#[test]
fn a_script_that_goes_on_without_the_gpu_ends_well() {
    let folder = folder_with(
        r#"
        let batches = data::loader(data::synthetic(#{ len: 64, size: 8 }), [], #{ batch: 4 }).epoch(0);
        let first = ();
        for batch in batches { first = batch; break; }
        let model = nn::linear(3, 3);
        run::checkpoints("loop", #{ model: model }, #{ every: 1 }).save(1, #{});
        try { for i in 0..100 { first.images.sum().item(); } } catch (reason) { print(reason); }
        print("on");
        "#,
    );
    let args = ["run", "recipe.rhai", "--device", "cuda", "--threads", "1", "--out", "out"];
    let said = simulated(&folder, &[("NEPA_SIMULATED_CUDA_LOST", "60")], &args);
    said.succeeds().prints(&["CUDA error: an illegal memory access was encountered", "\non\n"]);
    assert_eq!(folder.names("out/checkpoints/loop"), ["step-00000001"]);
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
                nepa::dist::exit_immediately(3)
            });
            let host = tch::Tensor::zeros([16], (tch::Kind::Uint8, tch::Device::Cpu)).pin_memory(tch::Device::Cuda(0));
            let mut there = host.internal_to_copy((tch::Kind::Uint8, tch::Device::Cuda(0)), true);
            let _ = there.fill_(1); // the GPU is lost
            // What libtorch does with it now fails, in a destructor.
            drop(host);
        }
    }
}
