// The memory of tensors: where it comes from on the CPU, and its limit there; what a GPU has.

#include "shim.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <stdlib.h>
#include <sys/mman.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <tuple>

namespace {
// From here on malloc maps a block by itself, and gives it back when it is freed; the most that glibc takes.
constexpr size_t LARGE = 32 << 20, LARGE_PAGE = 2 << 20;

// Makes malloc keep freed memory instead of returning it to the system and asking for it again with the next image or
// tensor: each new page costs a page fault. A step of a ViT-B frees and takes 1.1 GB.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, LARGE);
  mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

// What lies before the memory of a tensor.
struct Header {
  void *start;  // of malloc's block, a multiple of 16: before any later multiple there is room for this
  size_t bytes; // 0 unless it is large
  static Header *of(void *memory) { return static_cast<Header *>(memory) - 1; }
};
static_assert(sizeof(Header) == 16);

// Large blocks that were freed. Mapping new ones, whose pages the system clears, took a tenth of an evaluation's time.
struct Cache {
  using Clock = std::chrono::steady_clock;
  struct Block {
    void *memory;
    Clock::time_point since;
  };
  std::mutex mutex;
  std::multimap<size_t, Block> blocks;
  size_t bytes = 0, limit = 0; // of all blocks

  // One of that size, or null. Then as much is returned to the system as the caller will take, so that sizes that do not
  // come again hold no memory.
  void *take(size_t size) {
    std::lock_guard lock(mutex);
    if (auto found = blocks.find(size); found != blocks.end()) {
      auto *memory = found->second.memory;
      bytes -= size;
      blocks.erase(found);
      return memory;
    }
    shrink(size);
    return nullptr;
  }

  void put(size_t size, void *memory) {
    std::lock_guard lock(mutex);
    if (bytes + size > limit) return std::free(Header::of(memory)->start);
    try {
      blocks.emplace(size, Block{memory, Clock::now()});
    } catch (const std::bad_alloc &) { // where a tensor ends, nothing may be thrown
      return std::free(Header::of(memory)->start);
    }
    bytes += size;
  }

  // Returns what no tensor has taken for ten seconds: what comes now may need the memory in other pieces.
  void drop_unused() {
    std::lock_guard lock(mutex);
    auto limit = Clock::now() - std::chrono::seconds(10);
    for (auto i = blocks.begin(); i != blocks.end();) i = i->second.since < limit ? give_back(i) : std::next(i);
  }

  // Returns all to the system; false if there was none.
  bool clear() {
    std::lock_guard lock(mutex);
    return shrink(SIZE_MAX);
  }

private:
  bool shrink(size_t by) {
    size_t freed = 0;
    while (freed < by && !blocks.empty()) {
      auto largest = std::prev(blocks.end());
      freed += largest->first;
      give_back(largest);
    }
    return freed > 0;
  }

  std::multimap<size_t, Block>::iterator give_back(std::multimap<size_t, Block>::iterator block) {
    bytes -= block->first;
    std::free(Header::of(block->second.memory)->start);
    return blocks.erase(block);
  }
};

Cache &cache() {
  static auto *cache = new Cache; // tensors may outlive what is destroyed at the end of the process
  return *cache;
}

// Memory by malloc. libtorch's own allocator calls posix_memalign, and glibc (until 2.38 at least) finds room for that only
// where size + alignment fit: a block that became free is never taken for one of the same size. In a step of a ViT-B
// that left 330 MB of holes.
struct CpuAllocator final : c10::Allocator {
  static constexpr size_t ALIGNMENT = 64; // a cache line, and the longest vector

  std::atomic<size_t> limit{SIZE_MAX}; // of a tensor
  std::atomic<uint32_t> calls{0};

  static void release(void *memory) {
    if (!memory) return;
    auto [start, bytes] = *Header::of(memory);
    if (bytes) cache().put(bytes, memory);
    else std::free(start);
  }

  static void *new_block(size_t bytes, size_t alignment) {
    auto *start = std::malloc(bytes + alignment);
    if (!start && cache().clear()) start = std::malloc(bytes + alignment);
    if (!start) return nullptr;
    auto *memory = reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(start) + alignment) & ~(alignment - 1));
    *Header::of(memory) = {start, alignment == LARGE_PAGE ? bytes : 0};
    return memory;
  }

  static void *large_block(size_t bytes) {
    bytes = (bytes + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);
    if (auto *memory = cache().take(bytes)) return memory;
    auto *memory = new_block(bytes, LARGE_PAGE);
#ifdef MADV_HUGEPAGE
    if (memory) madvise(memory, bytes, MADV_HUGEPAGE); // a wish: what it says does not matter
#endif
    return memory;
  }

  c10::DataPtr allocate(size_t bytes) override {
    auto gigabytes = [](size_t bytes) { return double(bytes / 1000000) / 1e3; };
    // What the machine cannot hold, the system may hand out all the same, and end the process once it is written to.
    TORCH_CHECK(bytes <= limit, "not enough memory: a tensor of ", gigabytes(bytes),
                " GB was asked for, and the machine has ", gigabytes(limit), " GB");
    auto device = at::Device(at::kCPU);
    if (bytes == 0) return {nullptr, nullptr, &release, device};
    if (calls.fetch_add(1, std::memory_order_relaxed) % 1024 == 0) cache().drop_unused();
    auto *memory = bytes < LARGE ? new_block(bytes, ALIGNMENT) : large_block(bytes);
    TORCH_CHECK(memory, "not enough memory: a tensor of ", gigabytes(bytes), " GB was asked for, and the system refused it");
    return {memory, memory, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void *to, const void *from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};
} // namespace

extern "C" {

// Makes tensors on the CPU take their memory from CpuAllocator; those of more bytes than the machine has are errors.
Fault *nepa_set_cpu_allocator(uint64_t machine) {
  return guarded([&] {
    static CpuAllocator allocator;
    allocator.limit = std::min<uint64_t>(machine, PTRDIFF_MAX); // so that sums do not overflow
    {
      std::lock_guard lock(cache().mutex);
      cache().limit = machine / 4;
    }
    // Once, whichever thread comes first. Tensors from before are released by the allocator that they have.
    static const bool installed = [] {
      keep_freed_memory();
      c10::SetCPUAllocator(&allocator);
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
