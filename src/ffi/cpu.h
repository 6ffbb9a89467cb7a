// Kernels for the CPU (`kernels/`): where they fit, and loops over libtorch's own OpenMP threads.
#pragma once

#include "kernels/kernels.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

// Whether kernels may compute with a tensor: on a CPU, unless NEPA_CPU_KERNELS is 0. Then ATen's operations do it, as on a GPU.
inline bool has_cpu_kernels(const at::Tensor &x) { return x.is_cpu() && kernels::chosen().kernels; }

// at::parallel_for is a template that is serial unless the compiler has OpenMP, and with it comes a second libgomp, with
// threads of its own, where libtorch's has another name.
using GompParallel = void (*)(void (*body)(void *), void *data, unsigned threads, unsigned flags);

// Null where libtorch has another OpenMP than GNU's: then loops are serial.
inline GompParallel gomp_parallel() {
  static auto found = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

// How many workers a loop of so many turns has.
inline int64_t workers_for(int64_t count) {
  if (at::in_parallel_region() || !gomp_parallel()) return 1;
  return std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), count));
}

// Calls f(worker, i) for each i < count; whoever is free takes the next one. f must not throw.
template <class F> void parallel_each(int64_t count, const F &f) {
  auto workers = workers_for(count);
  if (workers == 1) {
    for (int64_t i = 0; i < count; i++) f(int64_t(0), i);
    return;
  }
  struct Loop {
    const F &f;
    int64_t count;
    std::atomic<int64_t> workers{0}, next{0};
  } loop{f, count};
  auto body = [](void *data) {
    auto &loop = *static_cast<Loop *>(data);
    auto worker = loop.workers++;
    for (auto i = loop.next++; i < loop.count; i = loop.next++) loop.f(worker, i);
  };
  gomp_parallel()(body, &loop, workers, 0);
}
