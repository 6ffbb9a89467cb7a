// AdamW's update of parameters, and the step of an average towards them.
#pragma once

#include "simd.h"

namespace kernels {
namespace NEPA_ISA {

inline void adamw(const AdamW &a, float *param, const float *grad, float *exp_avg, float *exp_avg_sq, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float g = grad[i];
    float first = exp_avg[i] + a.first_weight * (g - exp_avg[i]);
    float second = a.beta2 * exp_avg_sq[i] + a.second_weight * g * g;
    exp_avg[i] = first, exp_avg_sq[i] = second;
    param[i] = param[i] * a.decay - a.step_size * first / (std::sqrt(second) * a.second_scale + a.eps);
  }
}

inline void lerp(float *average, const float *value, float weight, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) average[i] += weight * (value[i] - average[i]);
}

} // namespace NEPA_ISA
} // namespace kernels
