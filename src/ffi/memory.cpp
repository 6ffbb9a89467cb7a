// The memory of tensors: where it comes from on the CPU, and its limit there; what a GPU has.

#include "shim.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <tuple>

namespace {
// Memory by malloc. libtorch's own allocator calls posix_memalign, and glibc (until 2.38 at least) finds room for that only
// where size + alignment fit: a block that became free is never taken for one of the same size. In a step of a ViT-B
// that left 330 MB of holes.
struct Memory final : c10::Allocator {
  static constexpr size_t ALIGNMENT = 64; // a cache line, and the longest vector
  // From here on malloc maps blocks afresh, each time (`keep_memory` in device.rs): with large pages, where the system
  // has them, that takes far fewer page faults.
  static constexpr size_t MAPPED = 32 << 20, LARGE_PAGE = 2 << 20;

  std::atomic<size_t> most{SIZE_MAX};

  // Where malloc's block begins is kept before ours. It is a multiple of 16, so there is room for that.
  static void **start_of(void *ours) { return static_cast<void **>(ours) - 1; }
  static void release(void *ours) {
    if (ours) std::free(*start_of(ours));
  }

  c10::DataPtr allocate(size_t bytes) override {
    auto gigabytes = [](size_t bytes) { return double(bytes / 1000000) / 1e3; };
    // What the machine cannot hold, the system may hand out all the same, and end the process once it is written to.
    TORCH_CHECK(bytes <= most, "not enough memory: a tensor of ", gigabytes(bytes),
                " GB was asked for, and the machine has ", gigabytes(most), " GB");
    auto device = at::Device(at::kCPU);
    if (bytes == 0) return {nullptr, nullptr, &release, device};
    auto alignment = bytes < MAPPED ? ALIGNMENT : LARGE_PAGE;
    auto *start = std::malloc(bytes + alignment);
    TORCH_CHECK(start, "not enough memory: a tensor of ", gigabytes(bytes), " GB was asked for, and the system refused it");
    auto *ours = reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(start) + alignment) & ~(alignment - 1));
    *start_of(ours) = start;
#ifdef MADV_HUGEPAGE
    if (alignment == LARGE_PAGE) madvise(ours, bytes, MADV_HUGEPAGE); // a wish: what it says does not matter
#endif
    return {ours, ours, &release, device};
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
