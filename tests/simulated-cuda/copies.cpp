// Copies that do not block. The simulation makes them at once, so it has to find out by other means that a host was too
// early: what it copies from must not change before the host has waited, and what it copies to is NaN until then. So are
// the bytes of an upload by a stream of its own, until the stream that computes waits for it.
// (libtorch itself sees to it that pinned memory that is freed is not used again too early.)

#include "simulated.h"

#include <cstring>
#include <mutex>

namespace simulated {

// Host memory that is being copied from: its bytes must not change.
struct Read {
  size_t number;
  char *memory;
  size_t bytes, sum;

  void finish() const;
};

// Memory that is being copied to: the host's, or the shadow of the device's. Its bytes are there when someone has waited.
struct Write {
  size_t number;
  char *memory;
  bool is_upload;
  std::vector<char> bytes;

  void finish() const { memcpy(memory, bytes.data(), bytes.size()); }
};

static std::mutex copies_mutex;
static std::vector<Read> reads;
static std::vector<Write> writes;
static size_t begun = 0;

static size_t sum_of(const char *bytes, size_t n) { return std::hash<std::string_view>()({bytes, n}); }

void Read::finish() const {
  if (sum_of(memory, bytes) == sum) return;
  fprintf(stderr, "simulated CUDA: the host changed memory that was being copied to the device: %zu bytes at %p\n", bytes,
          memory);
  abort();
}

// What has been written there is taken away until the copy has ended.
static void write_later(void *to, size_t bytes, bool is_upload) {
  auto *memory = static_cast<char *>(to);
  writes.push_back({begun, memory, is_upload, std::vector<char>(memory, memory + bytes)});
  memset(memory, 0xff, bytes);
}

void begin_copy_to_device(const void *host, size_t bytes, void *shadow) {
  auto *from = static_cast<char *>(const_cast<void *>(host));
  std::lock_guard<std::mutex> lock(copies_mutex);
  reads.push_back({++begun, from, bytes, sum_of(from, bytes)});
  if (current_stream != COMPUTE_STREAM) write_later(shadow, bytes, true);
}

void begin_copy_to_host(void *host, size_t bytes) {
  std::lock_guard<std::mutex> lock(copies_mutex);
  ++begun;
  write_later(host, bytes, false);
}

template <class Copy, class F> static void finish_those(std::vector<Copy> &copies, F is_one) {
  std::vector<Copy> others;
  for (auto &copy : copies)
    if (is_one(copy)) copy.finish();
    else others.push_back(std::move(copy));
  copies = std::move(others);
}

template <class F> static void finish_those(F is_one) {
  std::lock_guard<std::mutex> lock(copies_mutex);
  finish_those(reads, is_one);
  finish_those(writes, is_one);
}

void finish_copies() {
  finish_those([](const auto &) { return true; });
}

void finish_copies_of(const void *block, size_t bytes) {
  const char *begin = static_cast<const char *>(block), *end = begin + bytes;
  finish_those([=](const auto &copy) { return copy.memory >= begin && copy.memory < end; });
}

void finish_copies_up_to(size_t number) {
  finish_those([=](const auto &copy) { return copy.number <= number; });
}

void finish_uploads_up_to(size_t number) {
  std::lock_guard<std::mutex> lock(copies_mutex);
  finish_those(writes, [=](const Write &copy) { return copy.is_upload && copy.number <= number; });
}

size_t copies_begun() {
  std::lock_guard<std::mutex> lock(copies_mutex);
  return begun;
}

} // namespace simulated
