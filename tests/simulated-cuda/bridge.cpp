// Tensors of the device as tensors of the CPU over the same bytes, and back. A bridge lives as long as one kernel.

#include "simulated.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/TensorImpl.h>

namespace simulated {

std::vector<Tensor> tensors_of(const IValue &value) {
  if (value.isTensor()) return {value.toTensor()};
  if (value.isTensorList()) return value.toTensorVector();
  std::vector<Tensor> all;
  if (value.isList())
    for (const IValue &item : value.toListRef())
      if (item.isTensor()) all.push_back(item.toTensor());
  return all;
}

template <class F> IValue mapped(const IValue &value, F f) {
  if (value.isTensor()) return f(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor &t : value.toTensorVector()) list.push_back(f(t));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const auto &t : value.toOptionalTensorVector())
      list.push_back(t && t->defined() ? std::optional<Tensor>(f(*t)) : t);
    return list;
  }
  return value;
}

static void *address(const Storage &storage) {
  return storage.unsafeGetStorageImpl()->_mutable_data_ptr_no_checks().get();
}

// Views of one storage stay views of one storage: kernels look at that, and so does what they return.
Storage Bridge::host_storage(const Storage &own) {
  for (const auto &[mine, host] : storages)
    if (mine.is_alias_of(own)) return host;
  auto type = kind == SIZES_ONLY ? DeviceType::Meta : DeviceType::CPU;
  void *p = kind == SIZES_ONLY ? nullptr : shadow_of(address(own));
  auto *allocator = kind == SIZES_ONLY ? c10::GetAllocator(DeviceType::Meta) : host_allocator();
  Storage host(Storage::use_byte_size_t{}, own.nbytes(), c10::DataPtr(p, Device(type)), allocator, true);
  storages.emplace_back(own, host);
  return host;
}

Tensor Bridge::to_host(const Tensor &t) {
  if (!t.defined() || !t.is_cuda()) return t;
  for (const auto &[mine, host] : tensors)
    if (mine.is_same(t)) return host;
  auto key = kind == SIZES_ONLY ? DispatchKey::Meta : DispatchKey::CPU;
  auto host = at::detail::make_tensor<c10::TensorImpl>(host_storage(t.storage()), DispatchKeySet(key), t.dtype());
  auto *impl = host.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  // A number of the script does not decide a result's dtype. (To set the mark to false is an error for other tensors.)
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  tensors.emplace_back(t, host);
  return host;
}

Tensor Bridge::to_device(const Tensor &t) {
  if (!t.defined() || t.is_cuda()) return t;
  for (const auto &[mine, host] : tensors)
    if (host.is_same(t)) return mine;
  if (kind == SIZES_ONLY)
    return at::empty_strided(t.sizes(), t.strides(), t.options().device(Device(DeviceType::CUDA, device)));
  Storage own;
  for (const auto &[mine, host] : storages)
    if (host.is_alias_of(t.storage())) own = mine;
  if (!own) {
    size_t bytes = t.storage().nbytes();
    own = Storage(Storage::use_byte_size_t{}, bytes, taken_over(t.storage(), device), device_allocator(), true);
    storages.emplace_back(own, t.storage());
  }
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(own), DispatchKeySet(DispatchKey::CUDA), t.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  return made;
}

void Bridge::settle() {
  for (auto &[own, host] : storages) {
    auto *mine = own.unsafeGetStorageImpl();
    size_t bytes = host.nbytes();
    if (kind == SIZES_ONLY) {
      if (bytes <= mine->nbytes()) continue;
      c10::DeviceGuard guard(Device(DeviceType::CUDA, device));
      mine->set_data_ptr_noswap(device_allocator()->allocate(bytes));
      mine->set_nbytes(bytes);
    } else if (address(host) && address(host) != shadow_of(address(own))) {
      mine->set_data_ptr_noswap(taken_over(host, device));
      mine->set_nbytes(bytes);
    }
  }
  for (auto &[own, host] : tensors) {
    bool same = own.sizes() == host.sizes() && own.strides() == host.strides();
    if (same && own.storage_offset() == host.storage_offset()) continue;
    own.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
  }
}

} // namespace simulated
