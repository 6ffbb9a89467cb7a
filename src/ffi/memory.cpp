// The memory of tensors: where it comes from on the CPU, and its limit there; what a GPU has.

#include "shim.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <tuple>

namespace {
// From here on malloc maps a block afresh each time (`keep_memory` in device.rs).
constexpr size_t LARGE = 32 << 20, LARGE_PAGE = 2 << 20;

// What lies before the memory of a tensor.
struct Header {
  void *start;  // of malloc's block, a multiple of 16: before any later multiple there is room for this
  size_t bytes; // 0 unless it is large
  static Header *of(void *memory) { return static_cast<Header *>(memory) - 1; }
};
static_assert(sizeof(Header) == 16);

// Large blocks that tensors have left. The system takes longer to clear the pages of new ones than a kernel to fill them: it
// was a fifth of the time of an evaluation.
struct Left {
  std::mutex mutex;
  std::multimap<size_t, void *> blocks;
  size_t kept = 0, most = 0; // bytes of all blocks, and how many they may have

  // One of that size, or null. Then as much is given back as the caller will take, so that sizes that do not come again
  // hold no memory.
  void *take(size_t bytes) {
    std::lock_guard lock(mutex);
    if (auto found = blocks.find(bytes); found != blocks.end()) {
      auto *memory = found->second;
      kept -= bytes;
      blocks.erase(found);
      return memory;
    }
    give_back(bytes);
    return nullptr;
  }

  void put(size_t bytes, void *memory) {
    std::lock_guard lock(mutex);
    if (kept + bytes > most) return std::free(Header::of(memory)->start);
    kept += bytes;
    blocks.emplace(bytes, memory);
  }

  bool give_back_all() {
    std::lock_guard lock(mutex);
    return give_back(SIZE_MAX);
  }

private:
  bool give_back(size_t bytes) {
    size_t given = 0;
    while (given < bytes && !blocks.empty()) {
      auto largest = std::prev(blocks.end());
      given += largest->first, kept -= largest->first;
      std::free(Header::of(largest->second)->start);
      blocks.erase(largest);
    }
    return given > 0;
  }
};

Left &left() {
  static auto *left = new Left; // tensors may outlive what is destroyed at the end of the process
  return *left;
}

// Memory by malloc. libtorch's own allocator calls posix_memalign, and glibc (until 2.38 at least) finds room for that only
// where size + alignment fit: a block that became free is never taken for one of the same size. In a step of a ViT-B
// that left 330 MB of holes.
struct Memory final : c10::Allocator {
  static constexpr size_t ALIGNMENT = 64; // a cache line, and the longest vector

  std::atomic<size_t> most{SIZE_MAX};

  static void release(void *memory) {
    if (!memory) return;
    auto [start, bytes] = *Header::of(memory);
    if (bytes) left().put(bytes, memory);
    else std::free(start);
  }

  static void *new_block(size_t bytes, size_t alignment) {
    auto *start = std::malloc(bytes + alignment);
    if (!start && left().give_back_all()) start = std::malloc(bytes + alignment);
    if (!start) return nullptr;
    auto *memory = reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(start) + alignment) & ~(alignment - 1));
    *Header::of(memory) = {start, alignment == LARGE_PAGE ? bytes : 0};
    return memory;
  }

  static void *large_block(size_t bytes) {
    bytes = (bytes + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);
    if (auto *memory = left().take(bytes)) return memory;
    auto *memory = new_block(bytes, LARGE_PAGE);
#ifdef MADV_HUGEPAGE
    if (memory) madvise(memory, bytes, MADV_HUGEPAGE); // a wish: what it says does not matter
#endif
    return memory;
  }

  c10::DataPtr allocate(size_t bytes) override {
    auto gigabytes = [](size_t bytes) { return double(bytes / 1000000) / 1e3; };
    // What the machine cannot hold, the system may hand out all the same, and end the process once it is written to.
    TORCH_CHECK(bytes <= most, "not enough memory: a tensor of ", gigabytes(bytes),
                " GB was asked for, and the machine has ", gigabytes(most), " GB");
    auto device = at::Device(at::kCPU);
    if (bytes == 0) return {nullptr, nullptr, &release, device};
    auto *memory = bytes < LARGE ? new_block(bytes, ALIGNMENT) : large_block(bytes);
    TORCH_CHECK(memory, "not enough memory: a tensor of ", gigabytes(bytes), " GB was asked for, and the system refused it");
    return {memory, memory, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void *to, const void *from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};
} // namespace

extern "C" {

// Tensors of more bytes are errors from now on.
Fault *nepa_limit_memory(uint64_t bytes) {
  return guarded([&] {
    static Memory memory;
    {
      std::lock_guard lock(left().mutex);
      left().most = bytes / 4;
    }
    memory.most = std::min<uint64_t>(bytes, PTRDIFF_MAX); // so that sums do not overflow
    // Once, whichever thread comes first. Tensors from before are released by the allocator that they have.
    static const bool installed = [] {
      c10::SetCPUAllocator(&memory);
      return true;
    }();
    (void)installed;
  });
}

// Of a GPU, in bytes: the most that tensors have taken, the most that libtorch has taken from the driver for them, what
// is free now, and all.
Fault *nepa_gpu_memory(int index, uint64_t numbers[4]) {
  return guarded([&] {
    auto device = static_cast<c10::DeviceIndex>(index);
    auto *allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
    auto stats = allocator->getDeviceStats(device);
    auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    numbers[0] = stats.allocated_bytes[all].peak;
    numbers[1] = stats.reserved_bytes[all].peak;
    std::tie(numbers[2], numbers[3]) = allocator->getMemoryInfo(device);
  });
}
}
