// What tch does not bind, reached through the C++ API: the fused multi-tensor updates, autocast, and
// opening libtorch_cuda at start. Every function returns nullptr when it went well, else a message to free.

#include "shim.h"

#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <cstdio>
#include <string>

extern "C" {

// One fused AdamW update of n tensors that share their hyperparameters. `steps` are float32
// scalars on the parameters' device; the kernel raises them itself.
char *nepa_adamw(Handle *params, Handle *grads, Handle *exp_avgs, Handle *exp_avg_sqs,
                 Handle *steps, size_t n, double lr, double beta1, double beta2, double eps,
                 double weight_decay) {
  return guarded([&] {
    auto step_list = list(steps, n);
    at::_foreach_add_(step_list, 1);
    at::_fused_adamw_(list(params, n), list(grads, n), list(exp_avgs, n), list(exp_avg_sqs, n), {},
                      step_list, lr, beta1, beta2, weight_decay, eps, /*amsgrad=*/false,
                      /*maximize=*/false, c10::nullopt, c10::nullopt);
  });
}

// averages += weight * (values - averages)
char *nepa_lerp(Handle *averages, Handle *values, size_t n, double weight) {
  return guarded([&] { at::_foreach_lerp_(list(averages, n), list(values, n), weight); });
}

// The 2-norm over all tensors together, as a new float32 scalar in *norm.
char *nepa_global_norm(Handle *tensors, size_t n, Handle *norm) {
  return guarded([&] {
    auto norms = at::_foreach_norm(list(tensors, n), 2);
    *norm = new at::Tensor(at::linalg_vector_norm(at::stack(norms), 2));
  });
}

// tensors *= factor (a scalar tensor, so that nothing waits for a GPU)
char *nepa_scale(Handle *tensors, size_t n, Handle factor) {
  return guarded([&] { at::_foreach_mul_(list(tensors, n), *factor); });
}

// Drops the gradients, so that a parameter that takes no part in the next loss has none at all.
char *nepa_clear_grads(Handle *tensors, size_t n) {
  return guarded([&] {
    for (size_t i = 0; i < n; ++i) tensors[i]->mutable_grad() = at::Tensor();
  });
}

// Autocast as the thread has it: whether operators on tensors of the device cast their inputs to
// `dtype`, and whether the casts of weights are kept.
struct NepaAutocast {
  bool enabled;
  bool cache;
  int dtype;
};

void nepa_autocast_get(bool cuda, NepaAutocast *state) {
  auto device = cuda ? at::kCUDA : at::kCPU;
  *state = {at::autocast::is_autocast_enabled(device), at::autocast::is_autocast_cache_enabled(),
            static_cast<int>(at::autocast::get_autocast_dtype(device))};
}

void nepa_autocast_set(bool cuda, NepaAutocast state) {
  auto device = cuda ? at::kCUDA : at::kCPU;
  at::autocast::set_autocast_enabled(device, state.enabled);
  at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(state.dtype));
  at::autocast::set_autocast_cache_enabled(state.cache);
}

// Whether float32 matrix products and convolutions on CUDA may round their inputs to TF32.
char *nepa_allow_tf32(bool allow) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(allow);
    at::globalContext().setAllowTF32CuDNN(allow);
  });
}

// Makes a GPU that of this thread, for what does not say which it means.
char *nepa_set_cuda_device(int index) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    cuda.setDevice(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)));
  });
}

// Lets backward of this thread's graphs run on this thread alone, also for CUDA tensors.
void nepa_single_threaded_backward() { c10::AutogradState::get_tls_state().set_multithreading_enabled(false); }

// Whether nobody but this handle holds the tensor, and no view its memory.
bool nepa_is_unshared(Handle tensor) { return tensor->use_count() == 1 && tensor->storage().use_count() == 1; }

// The folder of the loaded libtorch with its last slash, to be freed; null where the system does not tell.
char *nepa_torch_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&at::_ops::mm::call), &info) || !info.dli_fname) return nullptr;
  std::string path(info.dli_fname);
  auto slash = path.rfind('/');
  return slash == std::string::npos ? nullptr : strdup(path.substr(0, slash + 1).c_str());
}

// Opens libtorch_cuda.so beside the loaded libtorch_cpu.so, so that one binary serves CPU and CUDA;
// its kernels register themselves. *found tells whether the file was there.
char *nepa_open_cuda(int *found) {
  *found = 0;
#ifdef __linux__
  char *folder = nepa_torch_folder();
  if (!folder) return nullptr;
  std::string path = std::string(folder) + "libtorch_cuda.so";
  free(folder);
  if (FILE *file = fopen(path.c_str(), "rb")) {
    fclose(file);
    *found = 1;
    if (!dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) return strdup(dlerror());
  }
#endif
  return nullptr;
}
}
