// Copies that do not block. The simulation makes them at once, so it has to find out by other means that a host was too
// early: what it copies from must not change before the host has waited, and what it copies to is NaN until then.
// (libtorch itself sees to it that pinned memory that is freed is not used again too early.)

#include "simulated.h"

#include <cstring>
#include <mutex>

namespace simulated {

struct Copy {
  size_t number;
  char *host;
  size_t bytes;
  size_t sum;               // of what is copied to the device
  std::vector<char> result; // what the host gets when it has waited
};

static std::mutex copies_mutex;
static std::vector<Copy> under_way;
static size_t begun = 0;

static size_t sum_of(const char *bytes, size_t n) { return std::hash<std::string_view>()({bytes, n}); }

void begin_copy_to_device(const void *host, size_t bytes) {
  auto *from = static_cast<char *>(const_cast<void *>(host));
  std::lock_guard<std::mutex> lock(copies_mutex);
  under_way.push_back({++begun, from, bytes, sum_of(from, bytes), {}});
}

void begin_copy_to_host(void *host, size_t bytes) {
  auto *to = static_cast<char *>(host);
  std::lock_guard<std::mutex> lock(copies_mutex);
  under_way.push_back({++begun, to, bytes, 0, std::vector<char>(to, to + bytes)});
  memset(to, 0xff, bytes);
}

static void finish(const Copy &copy) {
  if (!copy.result.empty()) {
    memcpy(copy.host, copy.result.data(), copy.bytes);
  } else if (sum_of(copy.host, copy.bytes) != copy.sum) {
    fprintf(stderr, "simulated CUDA: the host changed memory that was being copied to the device: %zu bytes at %p\n",
            copy.bytes, copy.host);
    abort();
  }
}

template <class F> static void finish_those(F is_one) {
  std::lock_guard<std::mutex> lock(copies_mutex);
  std::vector<Copy> others;
  for (auto &copy : under_way)
    if (is_one(copy)) finish(copy);
    else others.push_back(std::move(copy));
  under_way = std::move(others);
}

void finish_copies() {
  finish_those([](const Copy &) { return true; });
}

void finish_copies_of(const void *block, size_t bytes) {
  const char *begin = static_cast<const char *>(block), *end = begin + bytes;
  finish_those([=](const Copy &copy) { return copy.host >= begin && copy.host < end; });
}

size_t copies_begun() {
  std::lock_guard<std::mutex> lock(copies_mutex);
  return begun;
}

void finish_copies_up_to(size_t number) {
  finish_those([=](const Copy &copy) { return copy.number <= number; });
}

} // namespace simulated
