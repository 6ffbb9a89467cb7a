// What the fused parts of a block share.

#include "cpu.h"

#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/sum.h>

namespace fused {

std::vector<at::Tensor> cast(const std::vector<at::Tensor> &tensors, at::ScalarType kind) {
  auto result = tensors;
  std::vector<at::Tensor> from, to;
  for (auto &tensor : result) {
    if (!tensor.defined() || tensor.scalar_type() == kind) continue;
    from.push_back(tensor);
    tensor = at::empty_like(tensor, tensor.options().dtype(kind));
    to.push_back(tensor);
  }
  if (!to.empty()) at::_foreach_copy_(to, from);
  return result;
}

std::vector<at::Tensor> gradients_as_float(const std::vector<at::Tensor> &gradients) {
  if (!has_cpu_kernels(gradients.back())) return cast(gradients, at::kFloat);
  auto result = cast({gradients.begin(), gradients.end() - 1}, at::kFloat);
  result.push_back(gradients.back());
  return result;
}

at::Tensor product(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, at::Tensor out) {
  if (!out.defined() && x.scalar_type() == at::kFloat && has_cpu_kernels(x)) return cpu::product(x, weight, bias);
  if (!out.defined()) out = at::empty({x.size(0), weight.size(0)}, x.options());
  return bias.defined() ? at::addmm_out(out, bias, x, weight.t()) : at::mm_out(out, x, weight.t());
}

std::pair<at::Tensor, Moments> layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias,
                                          double eps) {
  auto [y, mean, rstd] = at::native_layer_norm(x, x.size(-1), given(weight), given(bias), eps);
  return {y, {mean, rstd}};
}

void add_product(at::Tensor &sum, const at::Tensor &x, const at::Tensor &weight) {
  if (!sum.defined()) sum = product(x, weight.t(), {});
  else if (x.scalar_type() == at::kFloat && has_cpu_kernels(x)) sum.add_(cpu::product(x, weight.t(), {}));
  else sum.addmm_(x, weight);
}

at::Tensor NormedRows::forward(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias,
                               at::ScalarType kind) {
  at::Tensor rows;
  if (has_cpu_kernels(x)) {
    std::tie(rows, moments) = cpu::norm(x, weight, bias, eps, kind);
  } else {
    std::tie(rows, moments) = layer_norm(x, weight, bias, eps);
    rows = rows.to(kind).view({-1, x.size(-1)});
  }
  if (kind != at::kFloat) kept = rows;
  return rows;
}

at::Tensor NormedRows::again(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) const {
  if (kept.defined()) return kept;
  if (has_cpu_kernels(x)) return cpu::norm(x, weight, bias, eps, at::kFloat).first;
  return layer_norm(x, weight, bias, eps).first.view({-1, x.size(-1)});
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> layer_norm_backward(const at::Tensor &grad, const at::Tensor &x,
                                                                   const Moments &moments, const at::Tensor &weight,
                                                                   const at::Tensor &bias, const at::Tensor &residual) {
  if (has_cpu_kernels(x)) return cpu::norm_backward(grad, x, moments, weight, bias, residual);
  auto found = at::native_layer_norm_backward(grad, x, x.size(-1), moments.mean, moments.rstd, given(weight), given(bias),
                                               {true, weight.defined(), bias.defined()});
  if (residual.defined()) std::get<0>(found).add_(residual);
  return found;
}

// scale ⊙ W and scale ⊙ b.
static std::pair<at::Tensor, at::Tensor> fold(const Projection &p, at::ScalarType kind) {
  if (!p.scale.defined()) {
    auto both = parameters({p.weight, p.bias}, kind);
    return {both[0], both[1]};
  }
  auto weight = scaled_parameter(p.weight, p.scale, p.scale.unsqueeze(1), kind);
  return {weight, p.bias.defined() ? scaled_parameter(p.bias, p.scale, p.scale, kind) : at::Tensor()};
}

at::Tensor add_projection(const at::Tensor &x, const at::Tensor &a, const Projection &p, at::Tensor &folded) {
  auto kind = a.scalar_type();
  auto [weight, bias] = fold(p, kind);
  if (kind != at::kFloat) folded = weight;
  auto y = product(a.reshape({-1, a.size(-1)}), weight, bias).view_as(x);
  if (p.mask.defined()) return at::addcmul(x, y, p.mask);
  return kind == x.scalar_type() ? y.add_(x) : at::add(x, y);
}

ProjectionGrads projection_backward(const at::Tensor &grad, at::ScalarType kind, const InputsOf &inputs_of,
                                    const Projection &p, const at::Tensor &folded, bool trained) {
  auto own = grad;
  if (p.mask.defined()) own = at::mul_out(own = at::empty(grad.sizes(), grad.options().dtype(kind)), grad, p.mask);
  own = own.to(kind).reshape({-1, grad.size(-1)});
  ProjectionGrads found;
  auto weights = folded.defined() ? folded : fold({p.weight, {}, p.scale, {}}, kind).first;
  found.a = product(own, weights.t(), {});
  auto inputs = inputs_of(found.a);
  if (!trained) return found;
  // As if there were no scale.
  auto weight = at::mm(own.t(), inputs);
  auto bias = at::sum(own, 0, /*keepdim=*/false, at::kFloat);
  if (p.scale.defined()) {
    found.scale = at::sum(at::mul(weight, p.weight), 1);
    found.weight = at::mul(weight, p.scale.unsqueeze(1));
    if (p.bias.defined()) {
      found.scale.addcmul_(bias, p.bias);
      found.bias = bias.mul_(p.scale);
    }
  } else {
    found.weight = weight.to(at::kFloat);
    if (p.bias.defined()) found.bias = bias;
  }
  return found;
}

variable_list PartNode::apply(variable_list &&grads) {
  // A gradient of this gradient would be missing without a word.
  TORCH_CHECK(!at::GradMode::is_enabled(),
              "a fused block has no second derivative: use nn::fused(false) before the forward pass");
  std::vector<at::Tensor> unpacked;
  for (const auto &input : inputs) unpacked.push_back(input.unpack(shared_from_this()));
  KernelsOnly kernels;
  return gradients(grads, unpacked);
}

void PartNode::release_variables() {
  for (auto &input : inputs) input.reset_data();
  forget();
}

} // namespace fused
