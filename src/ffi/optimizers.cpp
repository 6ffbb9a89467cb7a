// One update of an optimizer for many tensors that share their hyperparameters, with few launches.

#include "shim.h"
#include "update.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sign.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <map>

// What an update works on: equally long lists of tensors. Which states there are, each optimizer says.
struct Lists {
  Handle *params, *grads, *states[3];
  size_t n;
  // Null, or float32 scalars on the device: where found_inf is 1 (and is_finite 0), nothing changes. For the fused kernels
  // alone.
  Handle found_inf, is_finite;

  std::vector<at::Tensor> param_list() const { return list(params, n); }
  std::vector<at::Tensor> grad_list() const { return list(grads, n); }
  std::vector<at::Tensor> state_list(size_t i) const { return list(states[i], n); }
};

// Multiplies the updates of tensors of more than one dimension by trust * |parameter| / |update|, where both norms are
// positive: the layer-wise rates of LARS and LAMB.
static void scale_by_norms(const std::vector<at::Tensor> &params, std::vector<at::Tensor> &updates, double trust) {
  std::vector<at::Tensor> matrices, theirs;
  for (size_t i = 0; i < params.size(); ++i) {
    if (params[i].dim() <= 1) continue;
    matrices.push_back(params[i]);
    theirs.push_back(updates[i]);
  }
  if (matrices.empty()) return;
  auto norms = at::stack(at::_foreach_norm(matrices, 2));
  auto update_norms = at::stack(at::_foreach_norm(theirs, 2));
  auto both = norms.gt(0).logical_and(update_norms.gt(0));
  auto ratios = at::where(both, norms / update_norms * trust, at::ones_like(norms));
  at::_foreach_mul_(theirs, ratios.unbind(0));
}

// By our kernels; false where they do not fit.
static bool adamw_on_cpu(const Lists &lists, const std::vector<at::Tensor> &steps, double lr, double weight_decay,
                         double beta1, double beta2, double eps) {
  auto params = lists.param_list(), grads = lists.grad_list(), first = lists.state_list(0), second = lists.state_list(1);
  if (!update::fits({params, grads, first, second})) return false;
  if (update::is_refused(lists.found_inf)) return true;
  std::vector<kernels::AdamW> of;
  for (const auto &step : steps) {
    auto t = *static_cast<float *>(step.data_ptr());
    of.push_back({float(1 - beta1), float(beta2), float(1 - beta2), float(eps), float(1 - lr * weight_decay),
                  float(lr / (1 - std::pow(beta1, t))), float(1 / std::sqrt(1 - std::pow(beta2, t)))});
  }
  update::each_piece(params, [&](size_t i, int64_t at, int64_t n) {
    kernels::best().adamw(of[i], update::numbers(params[i], at), update::numbers(grads[i], at), update::numbers(first[i], at),
                          update::numbers(second[i], at), n);
  });
  mark_changed(params);
  return true;
}

extern "C" {

// AdamW. States: exp_avg, exp_avg_sq, and step, float32 scalars on the parameters' device.
Fault *nepa_adamw(const Lists *lists, double lr, double weight_decay, double beta1, double beta2, double eps) {
  return guarded([&] {
    auto steps = lists->state_list(2);
    if (lists->is_finite) at::_foreach_add_(steps, *lists->is_finite);
    else at::_foreach_add_(steps, 1);
    if (adamw_on_cpu(*lists, steps, lr, weight_decay, beta1, beta2, eps)) return;
    at::_fused_adamw_(lists->param_list(), lists->grad_list(), lists->state_list(0), lists->state_list(1), {}, steps, lr,
                      beta1, beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false, c10::nullopt,
                      optional(lists->found_inf));
    mark_changed(lists->param_list());
  });
}

// SGD. State: momentum_buffer, unless momentum is 0.
Fault *nepa_sgd(const Lists *lists, double lr, double weight_decay, double momentum, bool nesterov) {
  return guarded([&] {
    auto buffers = momentum == 0 ? std::vector<at::Tensor>{} : lists->state_list(0);
    at::_fused_sgd_(lists->param_list(), lists->grad_list(), buffers, weight_decay, momentum, lr, /*dampening=*/0,
                    nesterov, /*maximize=*/false, /*is_first_step=*/false, c10::nullopt,
                    optional(lists->found_inf));
    mark_changed(lists->param_list());
  });
}

// Lion. State: exp_avg.
Fault *nepa_lion(const Lists *lists, double lr, double weight_decay, double beta1, double beta2) {
  return guarded([&] {
    auto params = lists->param_list(), grads = lists->grad_list(), averages = lists->state_list(0);
    auto updates = at::_foreach_lerp(averages, grads, 1 - beta1);
    at::_foreach_sign_(updates);
    if (weight_decay != 0) at::_foreach_mul_(params, 1 - lr * weight_decay);
    at::_foreach_add_(params, updates, -lr);
    at::_foreach_lerp_(averages, grads, 1 - beta2);
    mark_changed(params);
  });
}

// LARS. State: momentum_buffer.
Fault *nepa_lars(const Lists *lists, double lr, double weight_decay, double momentum, double trust_coefficient) {
  return guarded([&] {
    auto params = lists->param_list(), buffers = lists->state_list(0);
    auto updates = at::_foreach_add(lists->grad_list(), params, weight_decay);
    scale_by_norms(params, updates, trust_coefficient);
    at::_foreach_mul_(buffers, momentum);
    at::_foreach_add_(buffers, updates);
    at::_foreach_add_(params, buffers, -lr);
    mark_changed(params);
  });
}

// LAMB. States: exp_avg, exp_avg_sq, and step as AdamW's.
Fault *nepa_lamb(const Lists *lists, double lr, double weight_decay, double beta1, double beta2, double eps) {
  return guarded([&] {
    auto params = lists->param_list(), grads = lists->grad_list();
    auto averages = lists->state_list(0), squares = lists->state_list(1), steps = lists->state_list(2);
    at::_foreach_add_(steps, 1);
    at::_foreach_lerp_(averages, grads, 1 - beta1);
    at::_foreach_mul_(squares, beta2);
    at::_foreach_addcmul_(squares, grads, grads, 1 - beta2);

    auto count = at::stack(steps);
    auto correction = [&](double beta) { return (1 - at::pow(at::Scalar(beta), count)); };
    auto updates = at::_foreach_div(averages, correction(beta1).unbind(0));
    auto scales = at::_foreach_div(squares, correction(beta2).unbind(0));
    at::_foreach_sqrt_(scales);
    at::_foreach_add_(scales, eps);
    at::_foreach_div_(updates, scales);
    at::_foreach_add_(updates, params, weight_decay);
    scale_by_norms(params, updates, 1);
    at::_foreach_add_(params, updates, -lr);
    mark_changed(params);
  });
}

// Muon, of matrices. State: momentum_buffer. Matrices of one shape are made orthogonal together.
Fault *nepa_muon(const Lists *lists, double lr, double weight_decay, double momentum, bool nesterov, int64_t ns_steps,
                 bool match_rms_adamw, bool bfloat16) {
  return guarded([&] {
    auto params = lists->param_list(), grads = lists->grad_list(), buffers = lists->state_list(0);
    at::_foreach_lerp_(buffers, grads, 1 - momentum);
    auto updates = nesterov ? at::_foreach_lerp(grads, buffers, momentum) : buffers;
    if (weight_decay != 0) at::_foreach_mul_(params, 1 - lr * weight_decay);

    std::map<std::pair<int64_t, int64_t>, std::vector<size_t>> by_shape;
    for (size_t i = 0; i < params.size(); ++i) by_shape[{params[i].size(0), params[i].size(1)}].push_back(i);
    for (auto &[shape, members] : by_shape) {
      std::vector<at::Tensor> theirs, them;
      for (auto i : members) {
        theirs.push_back(updates[i]);
        them.push_back(params[i]);
      }
      // Newton-Schulz: the singular values of x go towards 1.
      auto [rows, columns] = shape;
      auto x = at::stack(theirs).to(bfloat16 ? at::kBFloat16 : at::kFloat);
      if (rows > columns) x = x.transpose(1, 2);
      x = x / at::linalg_vector_norm(x, 2, at::IntArrayRef{1, 2}, /*keepdim=*/true).clamp_min(1e-7);
      for (int64_t step = 0; step < ns_steps; ++step) {
        auto gram = at::bmm(x, x.transpose(1, 2));
        auto polynomial = at::baddbmm(gram, gram, gram, /*beta=*/-4.7750, /*alpha=*/2.0315);
        x = at::baddbmm(x, polynomial, x, /*beta=*/3.4445);
      }
      if (rows > columns) x = x.transpose(1, 2);
      double ratio = match_rms_adamw ? 0.2 * std::sqrt(double(std::max(rows, columns)))
                                     : std::sqrt(std::max(1.0, double(rows) / double(columns)));
      at::_foreach_add_(them, x.to(at::kFloat).unbind(0), -lr * ratio);
    }
    mark_changed(params);
  });
}
}
