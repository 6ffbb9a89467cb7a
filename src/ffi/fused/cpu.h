// The fused parts of a block by kernels for the CPU (`kernels/`). Sums over rows are made in parts that do not depend on how
// many threads there are.
#pragma once

#include "../cpu.h"
#include "fused.h"

namespace fused::cpu {

// The kernels of a dtype of products, and how they see its numbers.
template <class F> void with_kernels(at::ScalarType kind, F f) {
  if (kind == at::kBFloat16) f(kernels::best().bf16, kernels::bfloat16());
  else f(kernels::best().float32, float());
}

// x Wᵀ + b in float32.
at::Tensor product(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias);

// LN(x) as rows in `kind`, and its moments.
std::pair<at::Tensor, Moments> norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, double eps,
                                    at::ScalarType kind);

// Gradients of x (plus `residual`, if that is defined), weight and bias.
std::tuple<at::Tensor, at::Tensor, at::Tensor> norm_backward(const at::Tensor &grad, const at::Tensor &x,
                                                             const Moments &moments, const at::Tensor &weight,
                                                             const at::Tensor &bias, const at::Tensor &residual);

// QK-norm of q or k, and rotary embedding; what is not defined is left out.
struct QkPart {
  bool norm;
  at::Tensor weight, bias; // [d]
  double eps;
  at::Tensor cos, sin; // [N, 1, d] or [B, N, 1, d]
  bool is_rotation;    // whether they turn without scaling, so that turning back is the inverse; true without them

  // Whether backward finds what the norm did in its output, so that its input need not be kept.
  bool from_output() const { return norm && !weight.defined() && !bias.defined() && is_rotation; }
};

// x [B, N, H, d], normed and turned; moments only with the norm.
at::Tensor qk(const QkPart &part, const at::Tensor &x, Moments &moments);

struct QkGrads {
  at::Tensor x, sum, weight, bias; // [B · N, H · d], and its sum over the rows
};

// Of a gradient [B, H, N, d]; `x` [B, N, H, d] is what the norm got, or, if backward is `from_output`, what came out.
QkGrads qk_backward(const QkPart &part, const at::Tensor &grad, const at::Tensor &x, const Moments &moments);

// gelu(u) of rows u; their gradient `grad` becomes that of u. And its sum over the rows.
std::pair<at::Tensor, at::Tensor> gelu_backward(const at::Tensor &u, at::Tensor &grad);

} // namespace fused::cpu
