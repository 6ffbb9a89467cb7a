// Which precision operators compute in: autocast, and TF32 on CUDA.

#include "fused/fused.h"
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>

// Autocast as the thread has it: whether operators on tensors of the device cast their inputs to
// `dtype`, and whether the casts of weights are kept.
struct AutocastState {
  bool enabled;
  bool cache;
  int dtype;
};

extern "C" {

void nepa_autocast_get(bool cuda, AutocastState *state) {
  auto device = cuda ? at::kCUDA : at::kCPU;
  *state = {at::autocast::is_autocast_enabled(device), at::autocast::is_autocast_cache_enabled(),
            static_cast<int>(at::autocast::get_autocast_dtype(device))};
}

void nepa_autocast_set(bool cuda, AutocastState state) {
  auto device = cuda ? at::kCUDA : at::kCPU;
  at::autocast::set_autocast_enabled(device, state.enabled);
  at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(state.dtype));
  at::autocast::set_autocast_cache_enabled(state.cache);
  fused::forget_old_parameters();
}

// Whether float32 matrix products and convolutions on CUDA may round their inputs to TF32.
Fault *nepa_allow_tf32(bool allow) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(allow);
    at::globalContext().setAllowTF32CuDNN(allow);
  });
}
}
