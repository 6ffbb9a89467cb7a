// Pinned memory that can be let go of whatever happens.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <memory>

// When pinned memory is freed, libtorch marks the moment in the stream that has copied from or to it, to know when it may
// be used again. On a lost GPU that is an error, and one in a destructor ends the process. Here such memory is leaked.
inline at::Tensor leaked_if_lost(at::Tensor pinned) {
  struct Own {
    void *context;
    c10::DeleterFnPtr release;
  };
  // libtorch then finds the block by its first address: only what begins there may be copied without waiting.
  TORCH_INTERNAL_ASSERT(pinned.storage_offset() == 0);
  auto *storage = pinned.storage().unsafeGetStorageImpl();
  auto memory = storage->set_data_ptr(c10::DataPtr());
  void *data = memory.get();
  auto release = memory.get_deleter();
  auto own = std::make_unique<Own>(Own{memory.release_context(), release});
  storage->set_data_ptr_noswap(c10::DataPtr(
      data, own.release(),
      [](void *context) {
        std::unique_ptr<Own> own(static_cast<Own *>(context));
        try {
          own->release(own->context);
        } catch (const c10::Error &) { // the next call that needs the GPU tells it
        }
      },
      c10::Device(c10::DeviceType::CPU)));
  return pinned;
}
