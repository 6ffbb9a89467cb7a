// Operations on many tensors at once, and who holds a tensor.

#include "pinned.h"
#include "shim.h"
#include "update.h"

#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <map>
#include <mutex>

// The stream of a device's uploads.
static c10::Stream upload_stream(at::Device device) {
  static std::mutex lock;
  static std::map<at::DeviceIndex, c10::Stream> streams;
  std::lock_guard<std::mutex> held(lock);
  auto found = streams.find(device.index());
  if (found == streams.end()) {
    auto own = c10::impl::VirtualGuardImpl(at::kCUDA).getStreamFromGlobalPool(device);
    found = streams.emplace(device.index(), own).first;
  }
  return found->second;
}

extern "C" {

// averages += weight * (values - averages), unless *found_inf (which may be null) is 1. The fused kernel of SGD does it,
// with gradients of averages - values: it looks at found_inf on the device. It takes elements in the order of memory.
Fault *nepa_lerp(Handle *averages, Handle *values, size_t n, double weight, Handle found_inf) {
  return guarded([&] {
    std::vector<at::Tensor> to, from;
    for (size_t i = 0; i < n; ++i) {
      const auto &average = *averages[i], &value = *values[i];
      if (average.is_non_overlapping_and_dense() && average.strides() == value.strides()) {
        to.push_back(average);
        from.push_back(value);
      } else if (found_inf) {
        average.lerp_(value, (1 - *found_inf) * weight);
      } else {
        average.lerp_(value, weight);
      }
    }
    if (to.empty()) return;
    if (update::fits({to, from})) {
      if (update::is_refused(found_inf)) return;
      update::each_piece(to, [&](size_t i, int64_t at, int64_t n) {
        kernels::best().lerp(update::numbers(to[i], at), update::numbers(from[i], at), weight, n);
      });
      return mark_changed(to);
    }
    at::_fused_sgd_(to, from, {}, /*weight_decay=*/1, /*momentum=*/0, /*lr=*/weight, /*dampening=*/0,
                    /*nesterov=*/false, /*maximize=*/true, /*is_first_step=*/false, c10::nullopt, optional(found_inf));
    mark_changed(to);
  });
}

// The 2-norm over all tensors together, as a new float32 scalar in *norm.
Fault *nepa_global_norm(Handle *tensors, size_t n, Handle *norm) {
  return guarded([&] {
    auto norms = at::_foreach_norm(list(tensors, n), 2);
    *norm = new at::Tensor(at::linalg_vector_norm(at::stack(norms), 2));
  });
}

// tensors *= factor (a scalar tensor, so that nothing waits for a GPU)
Fault *nepa_scale(Handle *tensors, size_t n, Handle factor) {
  return guarded([&] { at::_foreach_mul_(list(tensors, n), *factor); });
}

// Drops the gradients, so that a parameter that takes no part in the next loss has none at all.
Fault *nepa_clear_grads(Handle *tensors, size_t n) {
  return guarded([&] {
    for (size_t i = 0; i < n; ++i) tensors[i]->mutable_grad() = at::Tensor();
  });
}

// A new tensor like this one, its values undefined, in memory from which a GPU copies by itself.
Fault *nepa_pinned_like(Handle tensor, Handle *made) {
  return guarded([&] {
    *made = new at::Tensor(leaked_if_lost(at::empty_like(*tensor, tensor->options().pinned_memory(true))));
  });
}

// A copy of a CPU tensor on a CUDA device, which the host does not wait for: made by a stream of its own, beside what the
// current one computes, which waits for it. The pinned memory is used again only after the copy: its allocator sees to that.
Fault *nepa_upload(Handle tensor, int index, Handle *copy) {
  return guarded([&] {
    auto host = tensor->is_pinned() ? *tensor : leaked_if_lost(tensor->pin_memory());
    TORCH_CHECK(host.storage_offset() == 0, "what is copied without waiting begins where its memory does");
    auto device = at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
    const c10::impl::VirtualGuardImpl cuda(at::kCUDA);
    auto computing = cuda.getStream(device), uploading = upload_stream(device);
    at::Tensor made;
    c10::Event arrived(at::kCUDA);
    {
      c10::StreamGuard on(uploading);
      made = host.to(device, /*non_blocking=*/true);
      arrived.record(uploading);
    }
    // Its memory belongs to the uploads, which must not use it again before the current stream is done with it.
    made.record_stream(computing);
    arrived.block(computing);
    *copy = new at::Tensor(std::move(made));
  });
}

// Copies on the CPU of tensors on a CUDA device, all of which are waited for once.
Fault *nepa_download(Handle *tensors, size_t n, Handle *copies) {
  return guarded([&] {
    std::vector<at::Tensor> made;
    for (size_t i = 0; i < n; ++i) {
      const auto &tensor = *tensors[i];
      auto pinned = tensor.options().device(at::kCPU).pinned_memory(true);
      made.push_back(leaked_if_lost(at::empty(tensor.sizes(), pinned)));
      made.back().copy_(tensor, /*non_blocking=*/true);
    }
    const c10::impl::VirtualGuardImpl guard(at::kCUDA);
    for (size_t i = 0; i < n; ++i) {
      auto stream = guard.getStream(tensors[i]->device());
      if (i == 0 || tensors[i]->device() != tensors[i - 1]->device()) guard.synchronizeStream(stream);
    }
    for (size_t i = 0; i < n; ++i) copies[i] = new at::Tensor(made[i]);
  });
}

// Whether nobody but this handle holds the tensor, and no view its memory.
bool nepa_is_unshared(Handle tensor) { return tensor->use_count() == 1 && tensor->storage().use_count() == 1; }
}
