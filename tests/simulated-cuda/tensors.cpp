// Operators that make tensors, change what they look at, copy them, or read a number: they need the device's memory
// itself rather than its shadow.

#include "simulated.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/native/Copy.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorIterator.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <c10/core/DeviceGuard.h>

namespace simulated {

static Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                    std::optional<Device> device, std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!c10::pinned_memory_or_default(pin), "Only dense CPU tensors can be pinned");
  c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_generic(size, device_allocator(), DispatchKeySet(DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

static Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                            std::optional<at::Layout>, std::optional<Device> device, std::optional<bool> pin) {
  TORCH_CHECK(!c10::pinned_memory_or_default(pin), "Only dense CPU tensors can be pinned");
  c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_strided_generic(size, stride, device_allocator(), DispatchKeySet(DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

static void grow(const Tensor &self, size_t bytes) {
  auto *storage = self.storage().unsafeGetStorageImpl();
  if (bytes <= storage->nbytes()) return;
  TORCH_CHECK(storage->resizable(), "Trying to resize storage that is not resizable");
  c10::DeviceGuard guard(self.device());
  auto fresh = device_allocator()->allocate(bytes);
  if (storage->nbytes() && !settings().dry)
    device_allocator()->copy_data(fresh.get(), storage->data(), storage->nbytes());
  storage->set_data_ptr_noswap(std::move(fresh));
  storage->set_nbytes(bytes);
}

static const Tensor &resize_(const Tensor &self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  if (self.sizes() == size && !format) return self;
  grow(self, at::detail::computeStorageNbytesContiguous(size, self.itemsize(), self.storage_offset()));
  auto *impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  if (format) impl->empty_tensor_restride(*format);
  return self;
}

static Tensor &set_storage(Tensor &self, Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  TORCH_CHECK(source.device() == self.device(), "Attempted to set the storage of a tensor on device \"", self.device(),
              "\" to a storage on different device \"", source.device(), "\".");
  auto *impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  if (stride.data() && stride.size() == size.size()) {
    impl->set_sizes_and_strides(size, stride, offset);
  } else {
    impl->set_storage_offset(offset);
    impl->set_sizes_contiguous(size);
  }
  grow(self, at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.itemsize(), offset));
  return self;
}

static Tensor &set_whole_storage(Tensor &self, Storage source) {
  int64_t n = source.nbytes() / self.itemsize();
  return set_storage(self, std::move(source), 0, {n}, {1});
}

static Tensor &set_tensor(Tensor &self, const Tensor &source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

static at::Scalar local_scalar_dense(const Tensor &self) {
  record(Event::TO_HOST, "_local_scalar_dense", {0, self.itemsize(), true}, {self});
  return at::_local_scalar_dense(Bridge(self.get_device()).to_host(self));
}

static void record_stream(Tensor &t, at::Stream) { used_by_another_stream(t.storage().data()); }

// What libtorch calls for every copy to, from and between devices.
static void copy(at::TensorIterator &iter, bool non_blocking) {
  const Tensor &to = iter.tensor(0);
  Tensor from = iter.tensor(1).expand_as(to);
  if (to.numel() == 0) return;
  bool casts = from.scalar_type() != to.scalar_type();
  bool plain = !casts && to.is_non_overlapping_and_dense() && from.strides() == to.strides();
  bool down = false, pin = false;
  size_t read = from.numel() * from.itemsize(), written = to.numel() * to.itemsize();
  if (from.is_cuda() && to.is_cuda()) {
    const char *how = plain ? "copy_ (plain)" : casts ? "copy_ (cast)" : "copy_ (strided)";
    record(Event::LAUNCH, how, {1, read + written, false}, {to, from});
  } else {
    down = from.is_cuda();
    const Tensor &host = down ? to : from, &own = down ? from : to;
    pin = is_pinned(host.storage().data());
    // A kernel gathers or scatters what is not dense on the device's side.
    if (!own.is_non_overlapping_and_dense() || (!plain && !own.is_contiguous()))
      record(Event::LAUNCH, "copy_ (for the host)", {1, written, false}, {own});
    // CUDA waits for a copy to memory that is not pinned, even if asked not to.
    Cost cost{0, down ? written : read, !non_blocking || (down && !pin)};
    auto what = std::string(non_blocking ? "async" : "blocking") + (pin ? ", pinned" : ", pageable");
    record(down ? Event::TO_HOST : Event::TO_DEVICE, what, cost, {to, from});
  }
  if (non_blocking && pin) copied_by_device((down ? to : from).storage().data());
  if (settings().dry && written > (1 << 20)) return;
  Bridge bridge(to.is_cuda() ? to.get_device() : from.get_device());
  auto target = bridge.to_host(to), source = bridge.to_host(from);
  InKernel kernel;
  at::AutoDispatchBelowADInplaceOrView below;
  target.copy_(source);
  if (non_blocking && pin && (down ? target : source).is_contiguous()) {
    if (down) begin_copy_to_host(target.data_ptr(), written);
    else begin_copy_to_device(source.const_data_ptr(), read, target.data_ptr());
  }
}

void register_tensors(torch::Library &library, Own &own) {
  auto add = [&](const char *name, auto &&function) {
    own.push_back(name);
    library.impl(name, function);
  };
  add("empty.memory_format", TORCH_FN(empty));
  add("empty_strided", TORCH_FN(empty_strided));
  add("resize_", TORCH_FN(resize_));
  add("set_.source_Storage_storage_offset", TORCH_FN(set_storage));
  add("set_.source_Storage", TORCH_FN(set_whole_storage));
  add("set_.source_Tensor", TORCH_FN(set_tensor));
  add("_local_scalar_dense", TORCH_FN(local_scalar_dense));
  add("record_stream", TORCH_FN(record_stream));
}

} // namespace simulated

namespace at::native {
REGISTER_CUDA_DISPATCH(copy_stub, &simulated::copy)
}
