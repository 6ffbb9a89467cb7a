// Device memory, and its shadow.
//
// The addresses that the program sees lie in a range that nothing backs, so that host code which touches device memory
// ends there and then, as it would with a GPU. The bytes are at the same offset of a second range, the shadow, which
// only kernels and copies know.

#include "simulated.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>

#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

namespace simulated {

thread_local int current_device = 0;
thread_local int current_stream = COMPUTE_STREAM;

static constexpr int NOBODY = -1; // owner of a block that a kernel has taken and not given to anyone yet

class Memory {
public:
  Memory() {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    device = static_cast<char *>(mmap(nullptr, SPAN, PROT_NONE, flags, -1, 0));
    shadow = static_cast<char *>(mmap(nullptr, SPAN, PROT_READ | PROT_WRITE, flags, -1, 0));
    if (device == MAP_FAILED || shadow == MAP_FAILED) {
      perror("simulated CUDA: no addresses for its memory");
      abort();
    }
    // In dry mode little of a block is touched; a huge page would make 2 MiB of every touch.
    madvise(shadow, SPAN, MADV_NOHUGEPAGE);
    live.resize(settings().gpus.size());
  }

  bool is_device(const void *p) const { return p >= device && p < device + SPAN; }
  bool is_shadow(const void *p) const { return p >= shadow && p < shadow + SPAN; }
  void *to_shadow(const void *p) const { return p ? shadow + (static_cast<const char *>(p) - device) : nullptr; }
  void *to_device(const void *p) const { return p ? device + (static_cast<const char *>(p) - shadow) : nullptr; }

  // A new block, as an address of the shadow.
  void *take(size_t bytes, int owner) {
    if (!bytes) return nullptr;
    size_t size = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; // as CUDA's caching allocator rounds
    std::lock_guard<std::mutex> lock(mutex);
    check_not_lost();
    if (owner != NOBODY) charge(size, owner);
    else if (size > settings().bytes) refuse(size, settings().bytes, current_device);
    size_t place = find(size);
    blocks[place] = {size, owner, current_stream == COMPUTE_STREAM};
    if (settings().dry) {
      clear(shadow + place, size);
    } else if (settings().poison) {
      memset(shadow + place, 0xff, size); // NaN in every floating type, -1 in every integer
    }
    return shadow + place;
  }

  // What was made by another stream than computes is used again at once, unless it knows better.
  void used_by_another_stream(const void *p) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = blocks.find(static_cast<const char *>(p) - device);
    if (found != blocks.end()) found->second.is_safe = true;
  }

  void give(void *p) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = blocks.find(static_cast<char *>(p) - shadow);
    if (found == blocks.end()) {
      fprintf(stderr, "simulated CUDA: memory is freed that is not in use: %p\n", to_device(p));
      abort();
    }
    auto [place, block] = *found;
    if (!block.is_safe) {
      fprintf(stderr, "simulated CUDA: memory of one stream is freed that another may be using: %p\n", to_device(p));
      abort();
    }
    finish_copies_of(p, block.size);
    blocks.erase(found);
    if (block.owner != NOBODY) {
      live[block.owner] -= block.size;
      holds(block.owner, live[block.owner]);
    }
    put(place, block.size);
  }

  // Makes a block a device's. False where the address is not the beginning of one that nobody owns.
  bool adopt(void *p, int owner) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = blocks.find(static_cast<char *>(p) - shadow);
    if (found == blocks.end() || found->second.owner != NOBODY) return false;
    charge(found->second.size, owner);
    found->second.owner = owner;
    return true;
  }

private:
  struct Block {
    size_t size;
    int owner;
    bool is_safe; // to be freed without waiting
  };

  static constexpr size_t SPAN = size_t(1) << 41, ALIGNMENT = 512, PAGE = 4096;

  // Room on a device; an error in CUDA's words where there is none.
  void charge(size_t size, int owner) {
    size_t capacity = settings().bytes;
    bool over = live[owner] + size > capacity;
    if (over || allocations >= settings().last) refuse(size, over ? capacity - live[owner] : 0, owner);
    allocations++;
    live[owner] += size;
    holds(owner, live[owner]);
  }

  [[noreturn]] static void refuse(size_t size, size_t free, int device) {
    C10_THROW_ERROR(OutOfMemoryError, c10::str("CUDA out of memory. Tried to allocate ", mebibytes(size), ". GPU ",
                                               device, " has a total capacity of ", mebibytes(settings().bytes),
                                               " of which ", mebibytes(free), " is free. (This GPU is simulated.)"));
  }

  // Zeros, which cost memory only where a block does not fill whole pages.
  static void clear(char *p, size_t size) {
    auto page = [](char *at) { return reinterpret_cast<char *>(reinterpret_cast<size_t>(at) & ~(PAGE - 1)); };
    char *first = page(p + PAGE - 1), *last = page(p + size);
    if (first >= last) {
      memset(p, 0, size);
      return;
    }
    memset(p, 0, first - p);
    madvise(first, last - first, MADV_DONTNEED);
    memset(last, 0, p + size - last);
  }

  static std::string mebibytes(size_t bytes) {
    char text[32];
    snprintf(text, sizeof text, "%.2f MiB", bytes / 1048576.0);
    return text;
  }

  // The smallest free place that is large enough.
  size_t find(size_t size) {
    auto found = free_by_size.lower_bound({size, 0});
    if (found == free_by_size.end()) {
      size_t place = top;
      top += size;
      if (top > SPAN) abort();
      return place;
    }
    auto [have, place] = *found;
    forget(place, have);
    if (have > size) remember(place + size, have - size);
    return place;
  }

  // A free place, joined with its neighbours.
  void put(size_t place, size_t size) {
    auto after = free_by_place.lower_bound(place);
    if (after != free_by_place.end() && after->first == place + size) {
      size_t more = after->second;
      forget(place + size, more);
      size += more;
    }
    auto next = free_by_place.lower_bound(place);
    if (next != free_by_place.begin()) {
      auto [before, length] = *std::prev(next);
      if (before + length == place) {
        forget(before, length);
        place = before;
        size += length;
      }
    }
    remember(place, size);
  }

  void remember(size_t place, size_t size) {
    free_by_place[place] = size;
    free_by_size.insert({size, place});
  }
  void forget(size_t place, size_t size) {
    free_by_place.erase(place);
    free_by_size.erase({size, place});
  }

  char *device = nullptr, *shadow = nullptr;
  std::mutex mutex;
  size_t top = 0, allocations = 0;
  std::unordered_map<size_t, Block> blocks; // by place, the offset in either range
  std::map<size_t, size_t> free_by_place;
  std::set<std::pair<size_t, size_t>> free_by_size;
  std::vector<size_t> live; // by device
};

// Never destroyed: tensors outlive the statics of this library.
static Memory &memory() {
  static auto *all = new Memory();
  return *all;
}

void *shadow_of(const void *device) { return memory().to_shadow(device); }

void used_by_another_stream(const void *device) { memory().used_by_another_stream(device); }

static void free_device(void *p) { memory().give(memory().to_shadow(p)); }

static c10::DataPtr owned(void *shadow, int device) {
  void *p = memory().to_device(shadow);
  return {p, p, p ? &free_device : &c10::detail::deleteNothing, Device(DeviceType::CUDA, device)};
}

struct DeviceAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t n) override { return owned(memory().take(n, current_device), current_device); }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void *to, const void *from, size_t n) const override { memcpy(shadow_of(to), shadow_of(from), n); }

  // Nothing is kept for later, so that what is reserved is what is allocated.
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0] = stats.reserved_bytes[0] = held(device); // 0: small and large blocks together
    return stats;
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    return {settings().bytes - held(device).current, settings().bytes};
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr &, c10::Stream) override {}
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {}
};

c10::Allocator *device_allocator() {
  static DeviceAllocator one;
  return &one;
}

c10::DataPtr taken_over(const Storage &host, int device) {
  auto *impl = host.unsafeGetStorageImpl();
  void *p = impl->_mutable_data_ptr_no_checks().get();
  if (!p) return owned(nullptr, device);
  if (memory().is_shadow(p) && memory().adopt(p, device)) {
    impl->set_data_ptr(c10::DataPtr(nullptr, Device(DeviceType::CPU))).release_context();
    return owned(p, device);
  }
  void *copy = memory().take(impl->nbytes(), device);
  memcpy(copy, p, impl->nbytes());
  return owned(copy, device);
}

// ---- the CPU's allocator, which gives device memory to kernels ----

static thread_local int kernels_running = 0;
InKernel::InKernel() { kernels_running++; }
InKernel::~InKernel() { kernels_running--; }

static c10::Allocator *plain = nullptr; // libtorch's own

static void free_either(void *p) {
  if (memory().is_shadow(p)) memory().give(p);
  else plain->raw_deleter()(p);
}

struct HostAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void *p = kernels_running ? memory().take(n, NOBODY) : plain->raw_allocate(n);
    return {p, p, &free_either, Device(DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_either; }
  void copy_data(void *to, const void *from, size_t n) const override { memcpy(to, from, n); }
};

c10::Allocator *host_allocator() {
  static HostAllocator one;
  return &one;
}

// ---- pinned memory: the host's, known by its address ----

struct Pinned {
  size_t size;
  bool copied; // without waiting
};

static std::mutex pinned_mutex;
static std::map<const char *, Pinned> pinned;

static void unpin(void *p) {
  std::lock_guard<std::mutex> lock(pinned_mutex);
  auto found = pinned.find(static_cast<char *>(p));
  // libtorch marks the moment in the stream of the copies, to know when it may use the memory again. Where the device
  // is lost, that is an error in a destructor, which ends the process.
  if (found->second.copied) check_not_lost();
  finish_copies_of(p, found->second.size);
  pinned.erase(found);
  free(p);
}

// The block that an address is in.
static std::map<const char *, Pinned>::iterator block_of(const void *data) {
  auto next = pinned.upper_bound(static_cast<const char *>(data));
  if (next == pinned.begin()) return pinned.end();
  auto found = std::prev(next);
  return data < found->first + found->second.size ? found : pinned.end();
}

void copied_by_device(const void *data) {
  std::lock_guard<std::mutex> lock(pinned_mutex);
  block_of(data)->second.copied = true;
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void *p = nullptr;
    if (!n) return {nullptr, Device(DeviceType::CPU)};
    if (posix_memalign(&p, 4096, n)) throw std::bad_alloc();
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned[static_cast<char *>(p)] = {n, false};
    return {p, p, &unpin, Device(DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void *to, const void *from, size_t n) const override { memcpy(to, from, n); }
};

c10::Allocator *pinned_allocator() {
  static PinnedAllocator one;
  return &one;
}

bool is_pinned(const void *data) {
  std::lock_guard<std::mutex> lock(pinned_mutex);
  return block_of(data) != pinned.end();
}

// ---- a host that touches device memory ----

static struct sigaction before_us[2];

static void on_fault(int signal, siginfo_t *info, void *) {
  if (memory().is_device(info->si_addr)) {
    char text[100];
    int n = snprintf(text, sizeof text, "simulated CUDA: the host touched device memory at %p\n", info->si_addr);
    (void)!write(2, text, n);
    void *frames[64];
    backtrace_symbols_fd(frames, backtrace(frames, 64), 2);
  }
  // The access is made again, and meets whoever was here before: Rust's guard of stacks, or the system.
  sigaction(signal, &before_us[signal == SIGBUS], nullptr);
}

static const bool memory_is_ready = [] {
  memory();
  void *frame;
  backtrace(&frame, 1); // loads what it needs now: nothing may be loaded in a signal's handler
  c10::SetAllocator(DeviceType::CUDA, device_allocator());
  plain = c10::GetCPUAllocator();
  c10::SetCPUAllocator(host_allocator());
  struct sigaction ours = {};
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &ours, &before_us[0]);
  sigaction(SIGBUS, &ours, &before_us[1]);
  return true;
}();

} // namespace simulated
