// Backward of exact GELU, which needs its value too: both come from one exponential.
//
//   gelu(u) = u Φ(u),  gelu'(u) = Φ(u) + u φ(u),  φ(u) = exp(-u²/2) / √(2π)
//
// Φ is 1 - exp(-u²/2) times a polynomial of 1 / (1 + p |u|), for u ≥ 0 (Abramowitz and Stegun, 7.1.26): within 3e-7.
#pragma once

#include "simd.h"

namespace kernels {
namespace NEPA_ISA {

// gelu(u) in `value`, and `grad` times gelu'(u) in `grad`.
inline void gelu_both(floats u, floats &value, floats &grad) {
  floats positive = u < 0 ? -u : u;
  floats power = exp(u * u * -0.5f);
  floats t = 1 / (1 + 0.231641888f * positive); // 0.3275911 / √2
  floats p = each(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  floats tail = 0.5f * p * t * power;
  floats cdf = u < 0 ? tail : 1 - tail;
  value = u * cdf;
  grad *= cdf + u * power * 0.3989422804f;
}

// Of rows of u and its gradient: `values` gets gelu(u), `grads` becomes that of u, and is added to `sum` [width].
template <class T>
void gelu_backward(const T *us, T *values, T *grads, float *sum, int64_t width, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const T *u = us + row * width;
    T *value = values + row * width, *grad = grads + row * width;
    floats x, y, g;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
      g = numbers(grad + i);
      gelu_both(numbers(u + i), y, g);
      put_all(value + i, y);
      put_all(grad + i, g);
      store(sum + i, load(sum + i) + g);
    }
    if (i == width) continue;
    x = g = floats{};
    for (int64_t e = 0; i + e < width; e++) x[e] = number(u[i + e]), g[e] = number(grad[i + e]);
    gelu_both(x, y, g);
    for (int64_t e = 0; i + e < width; e++) put(value[i + e], y[e]), put(grad[i + e], g[e]), sum[i + e] += g[e];
  }
}

} // namespace NEPA_ISA
} // namespace kernels
