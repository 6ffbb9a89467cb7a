// What runs in libraries on a GPU and under other names on a CPU: attention (flash and memory-efficient), cuDNN's
// convolution, normalisation.

#include "simulated.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>

namespace simulated {

// ---- attention ----

using Optional = std::optional<Tensor>;

// The numbers of at::SDPBackend.
enum Backend : int64_t { MATH = 0, FLASH = 1, EFFICIENT = 2 };

// Flash attention for 16-bit types without a mask, the efficient one for masks and float32, as on a GPU. Neither takes
// sequences of length 0. The gradient of a mask, which the efficient one has on a GPU, is left to plain operators.
static int64_t choice(const Tensor &q, const Tensor &k, const Tensor &, const Optional &mask, double, bool,
                      std::optional<double>, bool) {
  if (q.dim() != 4 || q.numel() == 0 || k.numel() == 0 || (mask && mask->requires_grad())) return MATH;
  bool narrow = q.scalar_type() == at::kHalf || q.scalar_type() == at::kBFloat16;
  if (narrow && !mask) return FLASH;
  return narrow || q.scalar_type() == at::kFloat ? EFFICIENT : MATH;
}

static const char *name_of(Backend backend, bool backward) {
  if (backend == FLASH)
    return backward ? "_scaled_dot_product_flash_attention_backward" : "_scaled_dot_product_flash_attention";
  return backward ? "_scaled_dot_product_efficient_attention_backward" : "_scaled_dot_product_efficient_attention";
}

// Flash attention's results lie in memory as its query does, the other's with the heads side by side. It decides
// whether a later reshape copies.
static Tensor laid_out(Backend backend, const Tensor &like, int64_t width) {
  if (backend == FLASH && width == like.size(3)) return at::empty_like(like);
  return at::empty({like.size(0), like.size(2), like.size(1), width}, like.options()).transpose(1, 2);
}

static std::tuple<Tensor, Tensor> attend(Backend backend, const Tensor &q, const Tensor &k, const Tensor &v,
                                         const Optional &bias, double dropout, bool causal,
                                         std::optional<double> scale) {
  auto name = name_of(backend, false);
  for (const auto *t : {&k, &v}) {
    TORCH_CHECK(t->device() == q.device(), "Expected all tensors to be on the same device, but found at least two "
                "devices, ", q.device(), " and ", t->device(), "! (", name, ")");
    TORCH_CHECK(t->scalar_type() == q.scalar_type(), "Expected query, key, and value to have the same dtype, but got ",
                q.scalar_type(), " and ", t->scalar_type(), " (", name, ")");
  }
  record(Event::LAUNCH, name, {1, 4 * q.nbytes(), false}, {q, k, v});
  if (settings().dry) {
    auto sums = at::empty({q.size(0), q.size(1), q.size(2)}, q.options().dtype(at::kFloat));
    return {laid_out(backend, q, v.size(3)), sums};
  }
  Bridge bridge(q.get_device());
  auto hq = bridge.to_host(q), hk = bridge.to_host(k), hv = bridge.to_host(v);
  Optional mask;
  if (bias && bias->defined()) mask = bridge.to_host(*bias);
  InKernel kernel;
  at::AutoDispatchBelowADInplaceOrView below;
  auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(hq, hk, hv, dropout, causal, mask, scale);
  return {bridge.to_device(out), bridge.to_device(sums)};
}

static std::tuple<Tensor, Tensor, Tensor> attend_backward(Backend backend, const Tensor &grad, const Tensor &q,
                                                          const Tensor &k, const Tensor &v, const Tensor &out,
                                                          const Tensor &sums, double dropout, bool causal,
                                                          const Optional &bias, std::optional<double> scale) {
  record(Event::LAUNCH, name_of(backend, true), {3, 8 * q.nbytes(), false}, {grad, q, k, v});
  if (settings().dry)
    return {laid_out(backend, q, q.size(3)), laid_out(backend, k, k.size(3)), laid_out(backend, v, v.size(3))};
  Bridge bridge(q.get_device());
  auto host = [&](const Tensor &t) { return bridge.to_host(t); };
  auto hg = host(grad), hq = host(q), hk = host(k), hv = host(v), ho = host(out), hs = host(sums);
  Optional mask;
  if (bias && bias->defined()) mask = host(*bias);
  InKernel kernel;
  at::AutoDispatchBelowADInplaceOrView below;
  auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(hg, hq, hk, hv, ho, hs, dropout, causal,
                                                                              mask, scale);
  return {bridge.to_device(gq), bridge.to_device(gk), bridge.to_device(gv)};
}

// Seed and offset of dropout, which the CPU's kernels do not have.
static Tensor of_dropout(const Tensor &like, at::IntArrayRef size = {}) {
  return at::empty(size, like.options().dtype(at::kLong));
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>
flash(const Tensor &q, const Tensor &k, const Tensor &v, double dropout, bool causal, bool,
      std::optional<double> scale) {
  auto [out, sums] = attend(FLASH, q, k, v, {}, dropout, causal, scale);
  return {out,           sums, Tensor(), Tensor(), q.sym_size(2), k.sym_size(2), of_dropout(q, {2}), of_dropout(q),
          at::empty({0}, q.options())};
}

static std::tuple<Tensor, Tensor, Tensor>
flash_backward(const Tensor &grad, const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &out,
               const Tensor &sums, const Tensor &, const Tensor &, c10::SymInt, c10::SymInt, double dropout,
               bool causal, const Tensor &, const Tensor &, std::optional<double> scale) {
  return attend_backward(FLASH, grad, q, k, v, out, sums, dropout, causal, {}, scale);
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> efficient(const Tensor &q, const Tensor &k, const Tensor &v,
                                                            const Optional &bias, bool, double dropout, bool causal,
                                                            std::optional<double> scale) {
  auto [out, sums] = attend(EFFICIENT, q, k, v, bias, dropout, causal, scale);
  return {out, sums, of_dropout(q), of_dropout(q)};
}

static std::tuple<Tensor, Tensor, Tensor, Tensor>
efficient_backward(const Tensor &grad, const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &bias,
                   const Tensor &out, const Tensor &sums, const Tensor &, const Tensor &, double dropout,
                   std::array<bool, 4> wanted, bool causal, std::optional<double> scale) {
  if (!grad.defined()) return {};
  TORCH_CHECK_NOT_IMPLEMENTED(!(wanted[3] && bias.defined()), "the gradient of attention's bias is not simulated");
  auto [gq, gk, gv] = attend_backward(EFFICIENT, grad, q, k, v, out, sums, dropout, causal, bias, scale);
  return {gq, gk, gv, Tensor()};
}

// ---- convolution ----

static Tensor cudnn_convolution(const Tensor &x, const Tensor &weight, c10::SymIntArrayRef padding,
                                c10::SymIntArrayRef stride, c10::SymIntArrayRef dilation, c10::SymInt groups, bool,
                                bool, bool) {
  TORCH_CHECK(weight.device() == x.device(), "Expected all tensors to be on the same device, but got weight is on ",
              weight.device(), ", different from other tensors on ", x.device(),
              " (when checking argument in method wrapper_CUDA__cudnn_convolution)");
  TORCH_CHECK(x.scalar_type() == weight.scalar_type(), "Input type (", x.toString(), ") and weight type (",
              weight.toString(), ") should be the same");
  record(Event::LAUNCH, "cudnn_convolution", {1, x.nbytes() + weight.nbytes(), false}, {x, weight});
  if (settings().dry) {
    std::vector<int64_t> size{x.size(0), weight.size(0)};
    for (int64_t i = 2; i < x.dim(); i++) {
      auto of = [&](c10::SymIntArrayRef all) { return all[all.size() == 1 ? 0 : i - 2].expect_int(); };
      int64_t reach = of(dilation) * (weight.size(i) - 1);
      size.push_back((x.size(i) + 2 * of(padding) - reach - 1) / of(stride) + 1);
    }
    return at::empty(size, x.options());
  }
  Bridge bridge(x.get_device());
  auto hx = bridge.to_host(x), hw = bridge.to_host(weight);
  std::vector<c10::SymInt> no_padding(x.dim() - 2, 0);
  InKernel kernel;
  at::AutoDispatchBelowADInplaceOrView below;
  return bridge.to_device(
      at::convolution_symint(hx, hw, {}, stride, padding, dilation, false, no_padding, std::move(groups)));
}

// Dry mode computes it too: it is not in large models.
static Tensor cudnn_convolution_transpose(const Tensor &x, const Tensor &weight, c10::SymIntArrayRef padding,
                                          c10::SymIntArrayRef output_padding, c10::SymIntArrayRef stride,
                                          c10::SymIntArrayRef dilation, c10::SymInt groups, bool, bool, bool) {
  record(Event::LAUNCH, "cudnn_convolution_transpose", {1, x.nbytes() + weight.nbytes(), false}, {x, weight});
  Bridge bridge(x.get_device());
  auto hx = bridge.to_host(x), hw = bridge.to_host(weight);
  InKernel kernel;
  at::AutoDispatchBelowADInplaceOrView below;
  return bridge.to_device(
      at::convolution_symint(hx, hw, {}, stride, padding, dilation, true, output_padding, std::move(groups)));
}

// ---- normalisation ----

// The CPU has no kernel for it, and computes both ways by plain operators.
static std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor &grad, const Tensor &x, at::IntArrayRef shape,
                                                    const Tensor &scale, const Optional &weight,
                                                    std::array<bool, 2>) {
  record(Event::LAUNCH, "_fused_rms_norm_backward", {2, 3 * x.nbytes(), false}, {grad, x});
  Bridge bridge(x.get_device());
  auto hg = bridge.to_host(grad), hx = bridge.to_host(x), hs = bridge.to_host(scale);
  InKernel kernel;
  at::AutoDispatchBelowADInplaceOrView below;
  std::vector<int64_t> normalized, others;
  for (int64_t i = 0; i < x.dim(); i++)
    (i < x.dim() - static_cast<int64_t>(shape.size()) ? others : normalized).push_back(i);
  auto plain = hx * hs; // before the weight
  auto gp = weight && weight->defined() ? hg * bridge.to_host(*weight) : hg;
  auto gx = hs * (gp - plain * (gp * plain).mean(normalized, true));
  Tensor gw;
  if (weight && weight->defined()) gw = others.empty() ? hg * plain : (hg * plain).sum(others);
  return {bridge.to_device(gx.to(x.scalar_type())), gw.defined() ? bridge.to_device(gw) : gw};
}

static Optional on_host(Bridge &bridge, const Optional &t) {
  return t && t->defined() ? Optional(bridge.to_host(*t)) : std::nullopt;
}

// Dry mode computes it too: it is not in large models.
static std::tuple<Tensor, Tensor, Tensor, Tensor> cudnn_batch_norm(const Tensor &x, const Tensor &weight,
                                                                   const Optional &bias, const Optional &mean,
                                                                   const Optional &variance, bool training,
                                                                   double momentum, double epsilon) {
  record(Event::LAUNCH, "cudnn_batch_norm", {1, 2 * x.nbytes(), false}, {x, weight});
  Bridge bridge(x.get_device());
  auto hx = bridge.to_host(x), hw = bridge.to_host(weight);
  auto hb = on_host(bridge, bias), hm = on_host(bridge, mean), hv = on_host(bridge, variance);
  InKernel kernel;
  at::AutoDispatchBelowADInplaceOrView below;
  auto [out, kept_mean, kept_scale] = at::native_batch_norm(hx, hw, hb, hm, hv, training, momentum, epsilon);
  return {bridge.to_device(out), bridge.to_device(kept_mean), bridge.to_device(kept_scale),
          at::empty({0}, x.options().dtype(at::kByte))};
}

static std::tuple<Tensor, Tensor, Tensor>
cudnn_batch_norm_backward(const Tensor &x, const Tensor &grad, const Tensor &weight, const Optional &mean,
                          const Optional &variance, const Optional &kept_mean, const Optional &kept_scale,
                          double epsilon, const Tensor &) {
  record(Event::LAUNCH, "cudnn_batch_norm_backward", {1, 3 * x.nbytes(), false}, {x, grad});
  Bridge bridge(x.get_device());
  auto hx = bridge.to_host(x), hg = bridge.to_host(grad), hw = bridge.to_host(weight);
  auto hm = on_host(bridge, mean), hv = on_host(bridge, variance);
  auto km = on_host(bridge, kept_mean), ks = on_host(bridge, kept_scale);
  InKernel kernel;
  at::AutoDispatchBelowADInplaceOrView below;
  auto [gx, gw, gb] = at::native_batch_norm_backward(hg, hx, hw, hm, hv, km, ks, true, epsilon, {true, true, true});
  return {bridge.to_device(gx), bridge.to_device(gw), bridge.to_device(gb)};
}

void register_libraries(torch::Library &library, Own &own) {
  auto add = [&](const char *name, auto &&function) {
    own.push_back(name);
    library.impl(name, function);
  };
  add(name_of(FLASH, false), TORCH_FN(flash));
  add(name_of(FLASH, true), TORCH_FN(flash_backward));
  add(name_of(EFFICIENT, false), TORCH_FN(efficient));
  add(name_of(EFFICIENT, true), TORCH_FN(efficient_backward));
  add("cudnn_convolution", TORCH_FN(cudnn_convolution));
  add("cudnn_convolution_transpose", TORCH_FN(cudnn_convolution_transpose));
  add("_fused_rms_norm_backward", TORCH_FN(rms_norm_backward));
  add("cudnn_batch_norm", TORCH_FN(cudnn_batch_norm));
  add("cudnn_batch_norm_backward", TORCH_FN(cudnn_batch_norm_backward));
}

} // namespace simulated

namespace at::native {
REGISTER_CUDA_DISPATCH(_fused_sdp_choice_stub, &simulated::choice)
}
