// Attention by a kernel of ours, for few tokens on a CPU. ATen's takes its matrix products from libraries, which are slow for
// small ones.
//
//   softmax(q kᵀ / √d) v
//
// Kept for backward: q, k, v.

#include "cpu.h"

#include <ATen/ops/empty.h>

#include <cmath>

namespace fused {

// More tokens than this go to ATen.
constexpr int64_t MOST_TOKENS = 320;
constexpr int64_t WIDEST = 128; // head

// Calls f for each head, with memory of its thread.
template <class F> static void each_head(int64_t count, const kernels::Attention &a, F f) {
  auto floats = kernels::attention_floats(a) + 16;
  std::vector<float> memory(floats * workers_for(count));
  parallel_each(count, [&](int64_t worker, int64_t i) { f(i, memory.data() + worker * floats); });
}

// Head i of a tensor [B, H, N, d].
template <class T> static T *head_of(const at::Tensor &t, int64_t i) {
  auto heads = t.size(1);
  return static_cast<T *>(t.data_ptr()) + i / heads * t.stride(0) + i % heads * t.stride(1);
}

// A new tensor like q [B, H, N, d], in memory [B, N, H, d].
static at::Tensor like(const at::Tensor &q) {
  return at::empty({q.size(0), q.size(2), q.size(1), q.size(3)}, q.options()).transpose(1, 2);
}

struct AttentionNode : PartNode {
  bool causal = false;

  std::string name() const override { return "FusedAttention"; }
  void forget() override {}

  static kernels::Attention shape(const at::Tensor &q, bool causal) {
    return {q.size(2), q.size(3), causal, float(1 / std::sqrt(double(q.size(3))))};
  }

  variable_list gradients(const variable_list &grads, const std::vector<at::Tensor> &in) override {
    if (!grads[0].defined()) return variable_list(3);
    auto grad = grads[0].stride(-1) == 1 ? grads[0] : grads[0].contiguous();
    const auto &q = in[0], &k = in[1], &v = in[2];
    auto dq = like(q), dk = like(q), dv = like(q);
    auto a = shape(q, causal);
    cpu::with_kernels(q.scalar_type(), [&](const auto &typed, auto zero) {
      using T = decltype(zero);
      each_head(q.size(0) * q.size(1), a, [&](int64_t i, float *memory) {
        typed.attention_backward(a, head_of<T>(q, i), head_of<T>(k, i), head_of<T>(v, i), q.stride(2), v.stride(2),
                                 head_of<T>(grad, i), grad.stride(2), head_of<T>(dq, i), head_of<T>(dk, i),
                                 head_of<T>(dv, i), dq.stride(2), memory);
      });
    });
    return {dq, dk, dv};
  }
};

static bool has_kernel(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v) {
  return has_cpu_kernels(q) && q.size(2) <= MOST_TOKENS && q.size(3) <= WIDEST && q.stride(3) == 1 && k.strides() == q.strides() &&
         v.stride(3) == 1;
}

} // namespace fused

extern "C" {

// Of q, k, v [B, H, N, d] in one dtype of products; null where there is no kernel for them.
Fault *nepa_fused_attention(Handle q, Handle k, Handle v, bool causal, Handle *output) {
  return caught([&] {
    using namespace fused;
    *output = nullptr;
    if (!has_kernel(*q, *k, *v)) return;
    auto outputs = run<AttentionNode>({*q, *k, *v}, [&](AttentionNode &node) -> std::vector<at::Tensor> {
      node.causal = causal;
      auto a = AttentionNode::shape(*q, causal);
      auto out = like(*q);
      cpu::with_kernels(q->scalar_type(), [&](const auto &typed, auto zero) {
        using T = decltype(zero);
        each_head(q->size(0) * q->size(1), a, [&](int64_t i, float *memory) {
          typed.attention(a, head_of<T>(*q, i), head_of<T>(*k, i), head_of<T>(*v, i), q->stride(2), v->stride(2),
                          head_of<T>(out, i), out.stride(2), memory);
        });
      });
      return {out};
    });
    *output = new at::Tensor(outputs[0]);
  });
}
}
