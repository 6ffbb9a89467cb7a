// As many floats at a time as a register holds, by the compiler's vector extension, and the dtypes of products. (Longer
// vectors work on every processor, but the compiler splits some of their operations into single floats.)
#pragma once

#include "kernels.h"

#include <cmath>
#include <cstring>

namespace kernels {
namespace NEPA_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));

inline floats load(const float *p) { return *reinterpret_cast<const floats *>(p); }
inline void store(float *p, floats x) { *reinterpret_cast<floats *>(p) = x; }
inline floats each(float x) { return floats{} + x; }

// Folds the upper half onto the lower one until one is left.
template <class F> float folded(floats x, F f) {
  float a[LANES];
  store(a, x);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) a[i] = f(a[i], a[i + half]);
  return a[0];
}
inline float sum_of(floats x) {
  return folded(x, [](float a, float b) { return a + b; });
}
inline float max_of(floats x) {
  return folded(x, [](float a, float b) { return a > b ? a : b; });
}

// Within 2 units in the last place; NaN stays NaN.
inline floats exp(floats x) {
  x = x < -87.0f ? each(-87.0f) : x;
  x = x > 88.0f ? each(88.0f) : x;
  const floats magic = each(12582912.0f); // 1.5 · 2²³: adding it rounds
  floats shifted = x * 1.44269504f + magic;
  floats n = shifted - magic;
  floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  floats p = each(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  ints power = ((ints)shifted - 0x4B400000 + 127) << 23;
  return p * (floats)power;
}

inline float number(float x) { return x; }
inline float number(bfloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline void put(float &to, float x) { to = x; }
// To nearest, ties to even; NaN stays NaN.
inline void put(bfloat16 &to, float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to.bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}

// LANES of either dtype.
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2)));

inline floats numbers(const float *p) { return load(p); }
inline floats numbers(const bfloat16 *p) {
  return (floats)(__builtin_convertvector(*reinterpret_cast<const halves *>(p), words) << 16);
}
inline void put_all(float *p, floats x) { store(p, x); }
inline void put_all(bfloat16 *p, floats x) {
  words bits = (words)x, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  rounded = (bits & 0x7fffffff) > 0x7f800000 ? words{} + 0x7fc0 : rounded;
  *reinterpret_cast<halves *>(p) = __builtin_convertvector(rounded, halves);
}

} // namespace NEPA_ISA
} // namespace kernels
