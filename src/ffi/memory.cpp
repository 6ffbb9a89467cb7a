// The memory of tensors: a limit on the CPU, what a GPU has.

#include "shim.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <atomic>
#include <tuple>

namespace {
// Refuses what the machine cannot hold. The system may hand out the addresses all the same, and end the process once
// they are written to.
struct Bounded final : c10::Allocator {
  c10::Allocator *inner = nullptr;
  std::atomic<size_t> most{SIZE_MAX};

  c10::DataPtr allocate(size_t bytes) override {
    TORCH_CHECK(bytes <= most, "not enough memory: a tensor of ", bytes / 1000000 / 1e3,
                " GB was asked for, and the machine has ", most / 1000000 / 1e3, " GB");
    return inner->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return inner->raw_deleter(); }
  void copy_data(void *to, const void *from, std::size_t bytes) const override { inner->copy_data(to, from, bytes); }
};
} // namespace

extern "C" {

// Tensors of more bytes are errors from now on.
Fault *nepa_limit_memory(uint64_t bytes) {
  return guarded([&] {
    static Bounded bounded;
    bounded.most = bytes;
    // Once, whichever thread comes first.
    static const bool installed = [] {
      bounded.inner = c10::GetCPUAllocator();
      c10::SetCPUAllocator(&bounded);
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
