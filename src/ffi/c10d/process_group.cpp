// The process group: Gloo for tensors on a CPU, NCCL for those on a GPU, and the collectives that nepa uses.

#include "c10d.h"

#include <ATen/ops/empty_like.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

// Defined in nccl.cpp.
c10::intrusive_ptr<c10d::Backend> nepa_nccl(const c10::intrusive_ptr<c10d::Store> &store, int rank, int size,
                                            Milliseconds timeout);

struct Work {
  c10::intrusive_ptr<c10d::Work> work;
};

extern "C" {

// Connects all processes. The others reach this machine at `address`, or over the network interface `interface` where
// that is not empty. With `cuda`, tensors on a GPU go through NCCL.
Fault *nepa_process_group_open(Store *store, int rank, int size, const char *address, const char *interface, bool cuda,
                               int64_t timeout_ms, ProcessGroup **group) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(Milliseconds(timeout_ms));
    options->devices.push_back(*interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                          : c10d::ProcessGroupGloo::createDeviceForHostname(address));
    auto cpu_store = c10::make_intrusive<c10d::PrefixStore>("gloo/", store->start);
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(cpu_store, rank, size, options);
    auto all = c10::make_intrusive<c10d::ProcessGroup>(store->start, rank, size);
    all->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, gloo);
    all->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
    if (cuda) {
      limit_log(2); // errors: what NCCL's watchdog has to say
      auto cuda_store = c10::make_intrusive<c10d::PrefixStore>("nccl/", store->start);
      auto nccl = nepa_nccl(cuda_store, rank, size, Milliseconds(timeout_ms));
      all->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, nccl);
    }
    all->setGroupName("nepa");
    *group = new ProcessGroup{all, size};
  });
}

// Reduces `tensor` in place: op 0 sums, 1 takes the least, 2 the greatest.
Fault *nepa_all_reduce(ProcessGroup *group, Handle tensor, int op) {
  return guarded([&] {
    c10d::AllreduceOptions options;
    options.reduceOp = op == 0 ? c10d::ReduceOp::SUM : op == 1 ? c10d::ReduceOp::MIN : c10d::ReduceOp::MAX;
    std::vector<at::Tensor> tensors{*tensor};
    group->group->allreduce(tensors, options)->wait();
  });
}

// Begins a maximum over all processes, in place; nepa_work_wait waits for it.
Fault *nepa_all_reduce_max_async(ProcessGroup *group, Handle tensor, Work **work) {
  return guarded([&] {
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::MAX;
    std::vector<at::Tensor> tensors{*tensor};
    *work = new Work{group->group->allreduce(tensors, options)};
  });
}

// Waits, and frees the work.
Fault *nepa_work_wait(Work *work) {
  return guarded([&] {
    std::unique_ptr<Work> own(work);
    own->work->wait();
  });
}

// Overwrites `tensor` with that of rank `from`.
Fault *nepa_broadcast(ProcessGroup *group, Handle tensor, int from) {
  return guarded([&] {
    c10d::BroadcastOptions options;
    options.rootRank = from;
    std::vector<at::Tensor> tensors{*tensor};
    group->group->broadcast(tensors, options)->wait();
  });
}

// Overwrites many tensors with those of rank `from`, in messages of BUCKET_BYTES.
Fault *nepa_broadcast_coalesced(ProcessGroup *group, Handle *tensors, size_t n, int from) {
  return guarded([&] { c10d::broadcast_coalesced(group->group, list(tensors, n), BUCKET_BYTES, from); });
}

// The tensors of all processes, which have one shape and dtype: `size` new ones.
Fault *nepa_all_gather(ProcessGroup *group, Handle tensor, Handle *gathered) {
  return guarded([&] {
    std::vector<at::Tensor> input{*tensor};
    std::vector<std::vector<at::Tensor>> output(1);
    for (int i = 0; i < group->size; ++i) output[0].push_back(at::empty_like(*tensor));
    group->group->allgather(output, input)->wait();
    for (int i = 0; i < group->size; ++i) gathered[i] = new at::Tensor(output[0][i]);
  });
}

// Checks that all processes have parameters of the same number, shapes and dtypes, then overwrites them with rank 0's.
Fault *nepa_sync_params(ProcessGroup *group, Handle *params, size_t n) {
  return guarded([&] {
    auto tensors = list(params, n);
    c10d::verify_params_across_processes(group->group, tensors, std::nullopt);
    c10d::broadcast_coalesced(group->group, tensors, BUCKET_BYTES, 0);
  });
}
}
