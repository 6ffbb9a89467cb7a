// Which instruction set's kernels are used.

#include "kernels.h"

#include <cstdlib>
#include <cstring>

namespace kernels {

#if defined(__x86_64__)
namespace avx512 { extern const Kernels all; }
namespace avx2 { extern const Kernels all; }
#endif
namespace plain { extern const Kernels all; }

static bool is_wanted(const char *name) {
  const char *wanted = std::getenv("NEPA_CPU_KERNELS");
  return !wanted || !std::strcmp(wanted, name);
}

static const Chosen &choose() {
#if defined(__x86_64__)
  static const Chosen avx512{"AVX-512", &avx512::all}, avx2{"AVX2", &avx2::all};
  if (is_wanted("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return avx512;
  if (is_wanted("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2;
#endif
  static const Chosen plain{"any processor", &plain::all}, none{nullptr, nullptr};
  return is_wanted("0") && std::getenv("NEPA_CPU_KERNELS") ? none : plain;
}

const Chosen &chosen() {
  static const auto &kernels = choose();
  return kernels;
}

} // namespace kernels
