// The kernels for one instruction set, NEPA_ISA.

#include "attention.h"
#include "gelu.h"
#include "rows.h"
#include "update.h"

namespace kernels {
namespace NEPA_ISA {

template <class T> static constexpr Typed<T> typed() {
  return {norm<T>, norm_backward<T>, qk<T>, qk_backward<T>, gelu_backward<T>, attention<T>, attention_backward<T>};
}

extern const Kernels all = {typed<float>(), typed<bfloat16>(), adamw, lerp};

} // namespace NEPA_ISA
} // namespace kernels
