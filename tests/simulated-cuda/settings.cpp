// The environment, read once, before the first tensor.

#include "simulated.h"

#include <cstdlib>

namespace simulated {

static size_t number(const char *name, size_t otherwise) {
  const char *text = getenv(name);
  if (!text || !*text) return otherwise;
  char *end = nullptr;
  auto value = strtoull(text, &end, 10);
  if (*end) {
    fprintf(stderr, "simulated CUDA: expected a number in %s, found `%s`\n", name, text);
    abort();
  }
  return value;
}

const Settings &settings() {
  static const Settings all = {
      number("NEPA_SIMULATED_CUDA_DEVICES", 1),
      number("NEPA_SIMULATED_CUDA_BYTES", size_t(80) << 30),
      number("NEPA_SIMULATED_CUDA_ALLOCATIONS", SIZE_MAX),
      number("NEPA_SIMULATED_CUDA_POISON", 0) != 0,
      number("NEPA_SIMULATED_CUDA_DRY", 0) != 0,
      getenv("NEPA_SIMULATED_CUDA_REPORT"),
      getenv("NEPA_SIMULATED_CUDA_TRACE"),
  };
  return all;
}

} // namespace simulated
