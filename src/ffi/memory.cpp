// A limit on the memory of tensors on the CPU.

#include "shim.h"

#include <c10/core/CPUAllocator.h>

#include <atomic>

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
}
