#include "cpu.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace fused::cpu {

static at::Tensor dense(const at::Tensor &t) { return t.defined() ? t.contiguous() : t; }

template <class T> static T *data(const at::Tensor &t) {
  return t.defined() ? static_cast<T *>(t.data_ptr()) : nullptr;
}

// Parts of the rows, the same however many threads there are.
struct Parts {
  int64_t rows, size, count;

  // Of rows of this width: up to 64 parts, none too small to be worth a thread's while.
  Parts(int64_t rows, int64_t width)
      : rows(rows), size(std::max((rows + 63) / 64, 8192 / width + 1)), count((rows + size - 1) / size) {}

  template <class F> void each(F f) const {
    parallel_each(count, [&](int64_t, int64_t part) { f(part, part * size, std::min(rows, (part + 1) * size)); });
  }
};

// A sum of each part, [parts, width], added up at the end.
struct Sums {
  at::Tensor parts;

  Sums(bool wanted, const Parts &of, int64_t width) {
    if (wanted) parts = at::zeros({of.count, width}, at::kFloat);
  }
  float *part(int64_t i) const { return parts.defined() ? parts.data_ptr<float>() + i * parts.size(1) : nullptr; }
  at::Tensor sum() const { return parts.defined() ? at::sum(parts, 0) : at::Tensor(); }
};

at::Tensor product(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) {
  // MKL, which ATen calls, has its best kernels for Intel's processors alone; oneDNN's are as good on others.
#if defined(__x86_64__)
  static const bool by_onednn = !__builtin_cpu_is("intel");
#else
  constexpr bool by_onednn = false;
#endif
  if (!by_onednn) return bias.defined() ? at::addmm(bias, x, weight.t()) : at::mm(x, weight.t());
  using Linear = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, c10::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
  static const auto linear =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Linear>();
  return linear.call(x, weight, given(bias), "none", c10::List<std::optional<at::Scalar>>(), "");
}

std::pair<at::Tensor, Moments> norm(const at::Tensor &given_x, const at::Tensor &weight, const at::Tensor &bias,
                                    double eps, at::ScalarType kind) {
  auto x = given_x.contiguous();
  auto width = x.size(-1), rows = x.numel() / width;
  auto y = at::empty({rows, width}, x.options().dtype(kind));
  Moments moments{at::empty({rows}, x.options()), at::empty({rows}, x.options())};
  auto w = dense(weight), b = dense(bias);
  kernels::Norm n{data<float>(x), data<float>(w), data<float>(b), data<float>(moments.mean), data<float>(moments.rstd), width,
                  float(eps)};
  with_kernels(kind, [&](const auto &typed, auto zero) {
    auto *out = data<decltype(zero)>(y);
    Parts(rows, width).each([&](int64_t, int64_t begin, int64_t end) { typed.norm(n, out, begin, end); });
  });
  return {y, moments};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> norm_backward(const at::Tensor &given_grad, const at::Tensor &given_x,
                                                             const Moments &moments, const at::Tensor &weight,
                                                             const at::Tensor &bias, const at::Tensor &given_residual) {
  auto x = given_x.contiguous(), grad = given_grad.contiguous();
  auto residual = dense(given_residual);
  auto width = x.size(-1);
  Parts parts(x.numel() / width, width);
  auto dx = at::empty_like(x);
  auto w = dense(weight);
  Sums weights(weight.defined(), parts, width), biases(bias.defined(), parts, width);
  kernels::Norm n{data<float>(x), data<float>(w), nullptr, data<float>(moments.mean), data<float>(moments.rstd), width, 0};
  with_kernels(grad.scalar_type(), [&](const auto &typed, auto zero) {
    auto *of = data<decltype(zero)>(grad);
    parts.each([&](int64_t part, int64_t begin, int64_t end) {
      kernels::NormBackward b{data<float>(residual), data<float>(dx), weights.part(part), biases.part(part)};
      typed.norm_backward(n, b, of, begin, end);
    });
  });
  return {dx, weights.sum(), biases.sum()};
}

// The part as kernels see it, for x [B, N, H, d]; what it points to must stay.
static kernels::QkRows rows_of(const QkPart &part, const at::Tensor &weight, const at::Tensor &bias, const Moments &moments,
                               int64_t tokens, int64_t heads, int64_t head) {
  auto stride = part.cos.defined() && part.cos.dim() == 4 ? tokens * head : 0;
  return {tokens, heads, head, part.norm, data<float>(weight), data<float>(bias), data<float>(moments.mean),
          data<float>(moments.rstd), float(part.eps), data<float>(part.cos), data<float>(part.sin), stride,
          part.from_output()};
}

at::Tensor qk(const QkPart &part, const at::Tensor &x, Moments &moments) {
  auto tokens = x.size(1), heads = x.size(2), head = x.size(3), rows = x.size(0) * tokens;
  auto options = x.options().dtype(at::kFloat);
  if (part.norm) moments = {at::empty({rows, heads}, options), at::empty({rows, heads}, options)};
  auto y = at::empty_like(x);
  auto weight = dense(part.weight);
  auto bias = dense(part.bias);
  auto q = rows_of(part, weight, bias, moments, tokens, heads, head);
  with_kernels(x.scalar_type(), [&](const auto &typed, auto zero) {
    using T = decltype(zero);
    Parts(rows, heads * head).each([&](int64_t, int64_t begin, int64_t end) { typed.qk(q, data<T>(x), data<T>(y), begin, end); });
  });
  return y;
}

QkGrads qk_backward(const QkPart &part, const at::Tensor &given_grad, const at::Tensor &x, const Moments &moments) {
  auto grad = given_grad.stride(-1) == 1 ? given_grad : given_grad.contiguous();
  auto tokens = grad.size(2), heads = grad.size(1), head = grad.size(3), rows = grad.size(0) * tokens;
  Parts parts(rows, heads * head);
  auto dx = at::empty({rows, heads * head}, grad.options());
  auto weight = dense(part.weight);
  auto q = rows_of(part, weight, {}, moments, tokens, heads, head);
  kernels::Strides strides{grad.stride(0), grad.stride(1), grad.stride(2)};
  Sums sums(true, parts, heads * head), weights(part.weight.defined(), parts, head), biases(part.bias.defined(), parts, head);
  with_kernels(grad.scalar_type(), [&](const auto &typed, auto zero) {
    using T = decltype(zero);
    parts.each([&](int64_t i, int64_t begin, int64_t end) {
      typed.qk_backward(q, strides, data<T>(grad), data<T>(x), data<T>(dx), {sums.part(i), weights.part(i), biases.part(i)},
                        begin, end);
    });
  });
  return {dx, sums.sum(), weights.sum(), biases.sum()};
}

std::pair<at::Tensor, at::Tensor> gelu_backward(const at::Tensor &u, at::Tensor &grad) {
  auto width = u.size(-1);
  Parts parts(u.size(0), width);
  grad = grad.contiguous();
  auto value = at::empty_like(grad);
  Sums sums(true, parts, width);
  with_kernels(u.scalar_type(), [&](const auto &typed, auto zero) {
    using T = decltype(zero);
    parts.each([&](int64_t part, int64_t begin, int64_t end) {
      typed.gelu_backward(data<T>(u), data<T>(value), data<T>(grad), sums.part(part), width, begin, end);
    });
  });
  return {value, sums.sum()};
}

} // namespace fused::cpu

extern "C" const char *nepa_cpu_kernels() { return kernels::chosen().name; }
