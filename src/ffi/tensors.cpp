// Operations on many tensors at once, and who holds a tensor.

#include "shim.h"

#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

extern "C" {

// averages += weight * (values - averages)
Fault *nepa_lerp(Handle *averages, Handle *values, size_t n, double weight) {
  return guarded([&] { at::_foreach_lerp_(list(averages, n), list(values, n), weight); });
}

// The 2-norm over all tensors together, as a new float32 scalar in *norm.
Fault *nepa_global_norm(Handle *tensors, size_t n, Handle *norm) {
  return guarded([&] {
    auto norms = at::_foreach_norm(list(tensors, n), 2);
    *norm = new at::Tensor(at::linalg_vector_norm(at::stack(norms), 2));
  });
}

// tensors *= factor (a scalar tensor, so that nothing waits for a GPU)
Fault *nepa_scale(Handle *tensors, size_t n, Handle factor) {
  return guarded([&] { at::_foreach_mul_(list(tensors, n), *factor); });
}

// Drops the gradients, so that a parameter that takes no part in the next loss has none at all.
Fault *nepa_clear_grads(Handle *tensors, size_t n) {
  return guarded([&] {
    for (size_t i = 0; i < n; ++i) tensors[i]->mutable_grad() = at::Tensor();
  });
}

// A new tensor of bytes in memory that a GPU can read by itself. (tch's pin_memory names a device, which libtorch warns
// of.)
Fault *nepa_pinned_bytes(const int64_t *shape, size_t n, Handle *made) {
  return guarded([&] {
    auto options = at::TensorOptions().dtype(at::kByte).pinned_memory(true);
    *made = new at::Tensor(at::empty({shape, n}, options));
  });
}

// Whether nobody but this handle holds the tensor, and no view its memory.
bool nepa_is_unshared(Handle tensor) { return tensor->use_count() == 1 && tensor->storage().use_count() == 1; }
}
