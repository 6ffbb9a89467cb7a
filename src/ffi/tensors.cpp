// Operations on many tensors at once, as an optimizer needs them, and who holds a tensor.

#include "shim.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

extern "C" {

// One fused AdamW update of n tensors that share their hyperparameters. `steps` are float32
// scalars on the parameters' device; the kernel raises them itself.
Fault *nepa_adamw(Handle *params, Handle *grads, Handle *exp_avgs, Handle *exp_avg_sqs,
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

// Whether nobody but this handle holds the tensor, and no view its memory.
bool nepa_is_unshared(Handle tensor) { return tensor->use_count() == 1 && tensor->storage().use_count() == 1; }
}
