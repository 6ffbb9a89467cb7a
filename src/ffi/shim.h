// What the parts of the shim share: tch's handles, and exceptions turned into faults.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <gloo/common/error.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <vector>

using Handle = at::Tensor *; // what tch calls C_tensor*

inline std::vector<at::Tensor> list(const Handle *handles, size_t n) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(n);
  for (size_t i = 0; i < n; ++i) tensors.push_back(*handles[i]);
  return tensors;
}

// A tensor, or none for null.
inline std::optional<at::Tensor> optional(Handle handle) {
  return handle ? std::optional(*handle) : std::nullopt;
}

// Why a call failed, from malloc. Rust frees it (ffi::check).
struct Fault {
  int kind; // of these; the numbers are those of error::TorchFaultKind
  char message[];

  enum Kind { OTHER = 0, DISTRIBUTED = 1 };
};

inline Fault *fault(Fault::Kind kind, const char *message) {
  auto length = std::strlen(message) + 1;
  auto *made = static_cast<Fault *>(std::malloc(sizeof(Fault) + length));
  if (!made) std::abort();
  made->kind = kind;
  std::memcpy(made->message, message, length);
  return made;
}

// Runs the body. Gives nullptr when it went well.
template <class F> Fault *caught(F body) {
  try {
    body();
    return nullptr;
  } catch (const c10::DistError &e) { // the store, NCCL
    return fault(Fault::DISTRIBUTED, e.what());
  } catch (const gloo::Exception &e) {
    return fault(Fault::DISTRIBUTED, e.what());
  } catch (const gloo::EnforceNotMet &e) {
    return fault(Fault::DISTRIBUTED, e.what());
  } catch (const std::exception &e) {
    return fault(Fault::OTHER, e.what());
  } catch (...) {
    return fault(Fault::OTHER, "unknown C++ exception");
  }
}

// Runs the body without recording for backward.
template <class F> Fault *guarded(F body) {
  return caught([&] {
    at::NoGradGuard no_grad;
    body();
  });
}

// Tells autograd, and whoever keeps what was made of a tensor, that its values have changed: libtorch's fused kernels of
// optimizers do not, and of those for lists of tensors not every device's do.
inline void mark_changed(const std::vector<at::Tensor> &tensors) {
  for (const auto &tensor : tensors) tensor.unsafeGetTensorImpl()->bump_version();
}
