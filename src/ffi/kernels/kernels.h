// Loops over rows of memory for CPUs: what the fused parts of a block do beside matrix products. No libtorch in here; the
// files are compiled once for each instruction set, and the best one that the processor has is used.
#pragma once

#include <cstdint>

namespace kernels {

// What products are computed in: float, or bfloat16.
struct bfloat16 {
  uint16_t bits;
};

// LayerNorm of float rows [n, width], with `weight` and `bias` or null.
struct Norm {
  const float *x, *weight, *bias;
  float *mean, *rstd; // [n]; made by forward, read by backward
  int64_t width;
  float eps;
};

// Its backward: dx = residual (or 0) + the gradient of x. Adds to weight_grad and bias_grad [width], unless they are null.
struct NormBackward {
  const float *residual;
  float *dx, *weight_grad, *bias_grad;
};

// Wider heads than this have no kernels for QK-norm and rotary embedding.
constexpr int64_t WIDEST_HEAD = 512;

// QK-norm and rotary embedding of rows [images · tokens, heads · head], each optional.
struct QkRows {
  int64_t tokens, heads, head;
  bool norm;
  const float *weight, *bias; // [head], or null
  float *mean, *rstd;         // [rows, heads]
  float eps;
  const float *cos, *sin; // [tokens, head], or null
  int64_t angles_stride;  // from an image's angles to the next one's; 0 where all have the same
  bool from_output;       // whether backward gets what came out instead of what went in
};

// Where a gradient [images, heads, tokens, head] lies, in elements; those of a head are beside each other.
struct Strides {
  int64_t image, head, token;
};

// Sums over rows that backward adds to, unless they are null: of the output, for the bias of the product before [heads ·
// head], and for weight and bias of the norm [head].
struct QkSums {
  float *output, *weight, *bias;
};

// softmax(scale q kᵀ) v of one head, and its backward. Rows are `token` elements apart.
struct Attention {
  int64_t tokens, head;
  bool causal;
  float scale;
};

inline int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Floats of memory that a thread needs for a head: four of [tokens, width], one of [head, across], two of [tokens, across].
inline int64_t attention_floats(const Attention &a) {
  auto width = padded(a.head), across = padded(a.tokens);
  return 4 * a.tokens * width + a.head * across + 2 * a.tokens * across;
}

// AdamW (arXiv 1711.05101) at one step: decay = 1 - lr · weight decay, step_size = lr / (1 - beta1ᵗ), second_scale =
// 1 / √(1 - beta2ᵗ). The averages' weights of the gradient, 1 - beta1 and 1 - beta2, are those of the doubles.
struct AdamW {
  float first_weight, beta2, second_weight, eps, decay, step_size, second_scale;
};

// By the dtype of products.
template <class T> struct Typed {
  void (*norm)(const Norm &, T *y, int64_t begin, int64_t end);
  void (*norm_backward)(const Norm &, const NormBackward &, const T *grad, int64_t begin, int64_t end);
  void (*qk)(const QkRows &, const T *x, T *y, int64_t begin, int64_t end);
  // `x` is what the norm got, or what came out, turned; null without one.
  void (*qk_backward)(const QkRows &, const Strides &, const T *grad, const T *x, T *dx, const QkSums &, int64_t begin,
                      int64_t end);
  void (*gelu_backward)(const T *u, T *value, T *grad, float *sum, int64_t width, int64_t begin, int64_t end);
  void (*attention)(const Attention &, const T *q, const T *k, const T *v, int64_t qk_token, int64_t v_token, T *out,
                    int64_t out_token, float *memory);
  void (*attention_backward)(const Attention &, const T *q, const T *k, const T *v, int64_t qk_token, int64_t v_token,
                             const T *grad, int64_t grad_token, T *dq, T *dk, T *dv, int64_t d_token, float *memory);
};

struct Kernels {
  Typed<float> float32;
  Typed<bfloat16> bf16;
  void (*adamw)(const AdamW &, float *param, const float *grad, float *exp_avg, float *exp_avg_sq, int64_t n);
  // average += weight (value - average)
  void (*lerp)(float *average, const float *value, float weight, int64_t n);
};

// Those for this processor, and the name of their instruction set. NEPA_CPU_KERNELS chooses others: avx512, avx2, plain,
// or 0 for none, null.
struct Chosen {
  const char *name;
  const Kernels *kernels;
};
const Chosen &chosen();
inline const Kernels &best() { return *chosen().kernels; }

} // namespace kernels
