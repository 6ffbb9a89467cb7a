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

// Those that CUDA_VISIBLE_DEVICES lists, up to the first that is none.
static std::vector<int> visible(int devices) {
  std::vector<int> gpus;
  const char *list = getenv("CUDA_VISIBLE_DEVICES");
  for (int i = 0; !list && i < devices; i++) gpus.push_back(i);
  while (list && *list) {
    char *end = nullptr;
    auto gpu = strtol(list, &end, 10);
    if (end == list || gpu < 0 || gpu >= devices) break;
    gpus.push_back(static_cast<int>(gpu));
    list = *end ? end + 1 : end;
  }
  return gpus;
}

// A file of this process's own: the name that is given, with the rank of all but the first.
static std::string file(const char *name) {
  const char *path = getenv(name), *rank = getenv("RANK");
  if (!path || !*path) return "";
  return rank && std::string(rank) != "0" ? std::string(path) + "." + rank : path;
}

const Settings &settings() {
  static const Settings all = {
      visible(number("NEPA_SIMULATED_CUDA_DEVICES", 1)),
      number("NEPA_SIMULATED_CUDA_BYTES", size_t(80) << 30),
      number("NEPA_SIMULATED_CUDA_ALLOCATIONS", SIZE_MAX),
      number("NEPA_SIMULATED_CUDA_LOST", SIZE_MAX),
      number("NEPA_SIMULATED_CUDA_POISON", 0) != 0,
      number("NEPA_SIMULATED_CUDA_DRY", 0) != 0,
      number("NEPA_SIMULATED_CUDA_SILENT_PEERS", 0) != 0,
      50 + 40 * number("RANK", 0), // no two processes hear of their devices at the same time
      file("NEPA_SIMULATED_CUDA_REPORT"),
      file("NEPA_SIMULATED_CUDA_TRACE"),
  };
  return all;
}

} // namespace simulated
