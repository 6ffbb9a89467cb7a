// What the parts of the shim share: tch's handles, and exceptions turned into messages.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cstring>
#include <exception>
#include <vector>

using Handle = at::Tensor *; // what tch calls C_tensor*

inline std::vector<at::Tensor> list(Handle *handles, size_t n) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(n);
  for (size_t i = 0; i < n; ++i) tensors.push_back(*handles[i]);
  return tensors;
}

// Runs the body without recording for backward. Gives nullptr when it went well, else a message to free.
template <class F> char *guarded(F body) {
  try {
    at::NoGradGuard no_grad;
    body();
    return nullptr;
  } catch (const std::exception &e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}
