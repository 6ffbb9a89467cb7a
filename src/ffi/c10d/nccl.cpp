// NCCL's process group, for a binary that is built without CUDA's headers: ProcessGroupNCCL.hpp needs them, but what is
// wanted of it is two constructors, found by name in the libtorch_cuda that is open, and beyond that only the virtual
// functions of c10d::Backend.

#include "../shim.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <dlfcn.h>
#include <stdexcept>
#include <string>

namespace {
// c10d::ProcessGroupNCCL::Options::Options(bool is_high_priority_stream)
const char *OPTIONS = "_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb";
// c10d::ProcessGroupNCCL::ProcessGroupNCCL(intrusive_ptr<Store>, int rank, int size, intrusive_ptr<Options>)
const char *GROUP = "_ZN4c10d16ProcessGroupNCCLC1EN3c1013intrusive_ptrINS_5StoreENS1_6detail34intrusive_target_default_"
                    "null_typeIS3_EEEEiiNS2_INS0_7OptionsENS5_IS8_EEEE";

// In libtorch 2.11 the objects have 248 and 1112 bytes (sizeof, of the headers with CUDA 13.0 and NCCL 2.28), aligned
// to 8. They get more, so that a patch release may add to them.
constexpr size_t OPTIONS_BYTES = 4096, GROUP_BYTES = 16384;

// Both constructors take what follows the object as any function does.
using MakeOptions = void (*)(void *self, bool high_priority);
using MakeGroup = void (*)(void *self, c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                           c10::intrusive_ptr<c10d::Backend::Options> options);

template <class F> F symbol(const char *name) {
  if (void *found = dlsym(RTLD_DEFAULT, name)) return reinterpret_cast<F>(found);
  throw std::runtime_error("this libtorch_cuda has no NCCL as of libtorch 2.11 (no symbol " + std::string(name) + ")");
}

// Room for an object that libtorch constructs and, through its virtual destructor, deletes.
template <class T> T *room(size_t bytes) {
  void *memory = ::operator new(bytes);
  std::memset(memory, 0, bytes);
  return static_cast<T *>(memory);
}
} // namespace

c10::intrusive_ptr<c10d::Backend> nepa_nccl(const c10::intrusive_ptr<c10d::Store> &store, int rank, int size,
                                            std::chrono::milliseconds timeout) {
  auto make_options = symbol<MakeOptions>(OPTIONS);
  auto make_group = symbol<MakeGroup>(GROUP);

  auto *raw_options = room<c10d::Backend::Options>(OPTIONS_BYTES);
  make_options(raw_options, /*high_priority=*/false);
  auto options = c10::intrusive_ptr<c10d::Backend::Options>::unsafe_steal_from_new(raw_options);
  // NCCL's own watchdog ends the process with less to say than ours, which comes first.
  options->timeout = timeout + std::chrono::minutes(1);

  auto *raw_group = room<c10d::Backend>(GROUP_BYTES);
  try {
    make_group(raw_group, store, rank, size, options);
  } catch (...) {
    ::operator delete(raw_group);
    throw;
  }
  auto group = c10::intrusive_ptr<c10d::Backend>::unsafe_steal_from_new(raw_group);
  group->setSequenceNumberForGroup();
  return group;
}
