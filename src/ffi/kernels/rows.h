// LayerNorm, QK-norm and rotary embedding, each with its backward, in one pass over the rows.
#pragma once

#include "simd.h"

namespace kernels {
namespace NEPA_ISA {

// Loops of the usual widths of a head are compiled for them.
template <class F> void with_width(int64_t width, F f) {
  switch (width) {
  case 16: return f(std::integral_constant<int64_t, 16>());
  case 32: return f(std::integral_constant<int64_t, 32>());
  case 64: return f(std::integral_constant<int64_t, 64>());
  case 128: return f(std::integral_constant<int64_t, 128>());
  default: return f(width);
  }
}

struct Moments {
  float mean, rstd;
};

// Sums in double: what they lack in precision every later block makes larger.
template <class Width> Moments moments(const float *x, Width width, float eps) {
  double sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; i++) sum += x[i];
  double mean = sum / width;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
  return {float(mean), float(1 / std::sqrt(squares / width + eps))};
}

template <class T> void norm(const Norm &n, T *y, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const float *x = n.x + row * n.width;
    T *out = y + row * n.width;
    auto [mean, rstd] = moments(x, n.width, n.eps);
    n.mean[row] = mean, n.rstd[row] = rstd;
    if (n.weight && n.bias) {
#pragma omp simd
      for (int64_t i = 0; i < n.width; i++) put(out[i], (x[i] - mean) * rstd * n.weight[i] + n.bias[i]);
    } else if (n.weight) {
#pragma omp simd
      for (int64_t i = 0; i < n.width; i++) put(out[i], (x[i] - mean) * rstd * n.weight[i]);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n.width; i++) put(out[i], (x[i] - mean) * rstd);
    }
  }
}

// With x̂ = (x - mean) rstd and g = grad ⊙ weight: dx = rstd (g - mean(g) - x̂ mean(g ⊙ x̂)).
template <class T>
void norm_backward(const Norm &n, const NormBackward &b, const T *grads, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const float *x = n.x + row * n.width;
    const T *grad = grads + row * n.width;
    float *dx = b.dx + row * n.width;
    float mean = n.mean[row], rstd = n.rstd[row], sum = 0, product = 0;
    if (n.weight) {
#pragma omp simd reduction(+ : sum, product)
      for (int64_t i = 0; i < n.width; i++) {
        float g = number(grad[i]) * n.weight[i];
        sum += g, product += g * (x[i] - mean);
      }
    } else {
#pragma omp simd reduction(+ : sum, product)
      for (int64_t i = 0; i < n.width; i++) {
        float g = number(grad[i]);
        sum += g, product += g * (x[i] - mean);
      }
    }
    // Of (g - a - (x - mean) c) rstd.
    float a = sum / n.width, c = product * rstd * rstd / n.width;
    if (n.weight) {
#pragma omp simd
      for (int64_t i = 0; i < n.width; i++) dx[i] = rstd * (number(grad[i]) * n.weight[i] - a - (x[i] - mean) * c);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n.width; i++) dx[i] = rstd * (number(grad[i]) - a - (x[i] - mean) * c);
    }
    if (b.residual) {
      const float *residual = b.residual + row * n.width;
#pragma omp simd
      for (int64_t i = 0; i < n.width; i++) dx[i] += residual[i];
    }
    if (b.weight_grad) {
#pragma omp simd
      for (int64_t i = 0; i < n.width; i++) b.weight_grad[i] += number(grad[i]) * (x[i] - mean) * rstd;
    }
    if (b.bias_grad) {
#pragma omp simd
      for (int64_t i = 0; i < n.width; i++) b.bias_grad[i] += number(grad[i]);
    }
  }
}

template <class T> void qk(const QkRows &q, const T *x, T *y, int64_t begin, int64_t end) {
  with_width(q.head, [&](auto width) {
    alignas(64) float value[WIDEST_HEAD];
    const int64_t half = width / 2;
    for (int64_t row = begin; row < end; row++) {
      int64_t angles = row / q.tokens * q.angles_stride + row % q.tokens * width;
      for (int64_t h = 0; h < q.heads; h++) {
        const T *in = x + (row * q.heads + h) * width;
        T *out = y + (row * q.heads + h) * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) value[i] = number(in[i]);
        if (q.norm) {
          auto [mean, rstd] = moments(value, width, q.eps);
          q.mean[row * q.heads + h] = mean, q.rstd[row * q.heads + h] = rstd;
#pragma omp simd
          for (int64_t i = 0; i < width; i++) value[i] = (value[i] - mean) * rstd;
          if (q.weight) {
#pragma omp simd
            for (int64_t i = 0; i < width; i++) value[i] *= q.weight[i];
          }
          if (q.bias) {
#pragma omp simd
            for (int64_t i = 0; i < width; i++) value[i] += q.bias[i];
          }
        }
        if (q.cos) {
          const float *cos = q.cos + angles, *sin = q.sin + angles;
#pragma omp simd
          for (int64_t i = 0; i < half; i++) {
            put(out[i], value[i] * cos[i] - value[i + half] * sin[i]);
            put(out[i + half], value[i + half] * cos[i + half] + value[i] * sin[i + half]);
          }
        } else {
#pragma omp simd
          for (int64_t i = 0; i < width; i++) put(out[i], value[i]);
        }
      }
    }
  });
}

// With x̂ = (x - mean) rstd: as LayerNorm's. A norm without weight and bias gives x̂ itself, which is then found by turning
// the output back.
template <class T>
void qk_backward(const QkRows &q, const Strides &s, const T *grads, const T *x, T *dx, const QkSums &sums, int64_t begin,
                 int64_t end) {
  with_width(q.head, [&](auto width) {
    alignas(64) float g[WIDEST_HEAD], centred[WIDEST_HEAD];
    const int64_t half = width / 2;
    auto turn_back = [&](const T *from, float *to, int64_t angles) {
      if (q.cos) {
        const float *cos = q.cos + angles, *sin = q.sin + angles;
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
          float first = number(from[i]), second = number(from[i + half]);
          to[i] = first * cos[i] + second * sin[i + half];
          to[i + half] = second * cos[i + half] - first * sin[i];
        }
      } else {
#pragma omp simd
        for (int64_t i = 0; i < width; i++) to[i] = number(from[i]);
      }
    };
    for (int64_t row = begin; row < end; row++) {
      int64_t image = row / q.tokens, token = row % q.tokens, angles = image * q.angles_stride + token * width;
      for (int64_t h = 0; h < q.heads; h++) {
        const T *grad = grads + image * s.image + h * s.head + token * s.token;
        T *out = dx + (row * q.heads + h) * width;
        turn_back(grad, g, angles);
        if (q.norm) {
          const T *in = x + (row * q.heads + h) * width;
          float mean = q.mean[row * q.heads + h], rstd = q.rstd[row * q.heads + h];
          float unit = rstd; // what makes x̂ of `centred`
          if (q.from_output) {
            turn_back(in, centred, angles);
            unit = 1;
          } else {
#pragma omp simd
            for (int64_t i = 0; i < width; i++) centred[i] = number(in[i]) - mean;
          }
          if (sums.weight) {
#pragma omp simd
            for (int64_t i = 0; i < width; i++) sums.weight[i] += g[i] * centred[i] * rstd;
          }
          if (sums.bias) {
#pragma omp simd
            for (int64_t i = 0; i < width; i++) sums.bias[i] += g[i];
          }
          if (q.weight) {
#pragma omp simd
            for (int64_t i = 0; i < width; i++) g[i] *= q.weight[i];
          }
          float sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
          for (int64_t i = 0; i < width; i++) sum += g[i], product += g[i] * centred[i];
          float a = sum / width, c = product * unit * unit / width;
#pragma omp simd
          for (int64_t i = 0; i < width; i++) g[i] = rstd * (g[i] - a - centred[i] * c);
        }
#pragma omp simd
        for (int64_t i = 0; i < width; i++) put(out[i], g[i]);
        if (sums.output) {
          float *sum = sums.output + h * width;
#pragma omp simd
          for (int64_t i = 0; i < width; i++) sum[i] += g[i];
        }
      }
    }
  });
}

} // namespace NEPA_ISA
} // namespace kernels
