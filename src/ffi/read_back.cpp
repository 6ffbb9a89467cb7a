// A tensor's values, on their way from a CUDA device to the host, which goes on meanwhile.

#include "pinned.h"
#include "shim.h"

#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

struct ReadBack {
  at::Tensor host; // pinned
  c10::Event arrived;
};

extern "C" {

// Begins a copy, on the stream that computes the tensor.
Fault *nepa_read_back(Handle tensor, ReadBack **made) {
  return guarded([&] {
    auto pinned = tensor->options().device(at::kCPU).pinned_memory(true);
    auto host = leaked_if_lost(at::empty(tensor->sizes(), pinned));
    host.copy_(*tensor, /*non_blocking=*/true);
    c10::Event arrived(at::kCUDA);
    arrived.record(c10::impl::VirtualGuardImpl(at::kCUDA).getStream(tensor->device()));
    *made = new ReadBack{std::move(host), std::move(arrived)};
  });
}

// Whether the values are there.
Fault *nepa_read_back_has_arrived(const ReadBack *values, bool *arrived) {
  return guarded([&] { *arrived = values->arrived.query(); });
}

// The values, when they are there.
Fault *nepa_read_back_wait(const ReadBack *values, Handle *host) {
  return guarded([&] {
    values->arrived.synchronize();
    *host = new at::Tensor(values->host);
  });
}

void nepa_read_back_free(ReadBack *values) { delete values; }
}
