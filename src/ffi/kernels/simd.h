// Sixteen floats at a time, as the compiler's vector extension has them on every processor, and the dtypes of products.
#pragma once

#include "kernels.h"

#include <cmath>
#include <cstring>

namespace kernels {
namespace NEPA_ISA {

typedef float v16 __attribute__((vector_size(64), aligned(4)));
typedef int32_t v16i __attribute__((vector_size(64), aligned(4)));

inline v16 load16(const float *p) { return *reinterpret_cast<const v16 *>(p); }
inline void store16(float *p, v16 x) { *reinterpret_cast<v16 *>(p) = x; }
inline v16 all16(float x) { return v16{} + x; }

// Folds the upper half onto the lower one until one is left.
template <class F> float folded16(v16 x, F f) {
  float a[16];
  store16(a, x);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a[i] = f(a[i], a[i + half]);
  return a[0];
}
inline float sum16(v16 x) {
  return folded16(x, [](float a, float b) { return a + b; });
}
inline float max16(v16 x) {
  return folded16(x, [](float a, float b) { return a > b ? a : b; });
}

// Within 2 units in the last place; NaN stays NaN.
inline v16 exp16(v16 x) {
  x = x < -87.0f ? all16(-87.0f) : x;
  x = x > 88.0f ? all16(88.0f) : x;
  const v16 magic = all16(12582912.0f); // 1.5 · 2²³: adding it rounds
  v16 shifted = x * 1.44269504f + magic;
  v16 n = shifted - magic;
  v16 r = x - n * 0.693359375f + n * 2.12194440e-4f;
  v16 p = all16(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  v16i power = ((v16i)shifted - 0x4B400000 + 127) << 23;
  return p * (v16)power;
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

// Sixteen of either dtype.
typedef uint32_t v16u __attribute__((vector_size(64), aligned(4)));
typedef uint16_t half16 __attribute__((vector_size(32), aligned(2)));

inline v16 numbers16(const float *p) { return load16(p); }
inline v16 numbers16(const bfloat16 *p) {
  return (v16)(__builtin_convertvector(*reinterpret_cast<const half16 *>(p), v16u) << 16);
}
inline void put16(float *p, v16 x) { store16(p, x); }
inline void put16(bfloat16 *p, v16 x) {
  v16u bits = (v16u)x, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  rounded = (bits & 0x7fffffff) > 0x7f800000 ? v16u{} + 0x7fc0 : rounded;
  *reinterpret_cast<half16 *>(p) = __builtin_convertvector(rounded, half16);
}

} // namespace NEPA_ISA
} // namespace kernels
