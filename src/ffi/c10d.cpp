// PyTorch's own engine for processes that train together (c10d), as it ships in libtorch: the store through which they
// find each other, the process group (Gloo on CPUs, NCCL on GPUs), and the reducer under DistributedDataParallel, which
// averages gradients bucket by bucket while backward still runs.

#define USE_C10D_GLOO
#include "shim.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

// Defined in nccl.cpp.
c10::intrusive_ptr<c10d::Backend> nepa_nccl(const c10::intrusive_ptr<c10d::Store> &store, int rank, int size,
                                            std::chrono::milliseconds timeout);

namespace {
using Milliseconds = std::chrono::milliseconds;

struct Store {
  c10::intrusive_ptr<c10d::Store> all;     // what outlives a restart by torchrun
  c10::intrusive_ptr<c10d::Store> attempt; // what belongs to this start
};

struct Group {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  int size;
};

struct Work {
  c10::intrusive_ptr<c10d::Work> work;
};

struct Reducer {
  std::unique_ptr<c10d::Reducer> reducer;
};

// find_unused_parameters costs a walk over the graph, which is little beside the rest, and spares the user to know which
// parameters take part; the reducer's advice to turn it off is not for him.
struct Quiet : c10::WarningHandler {
  void process(const c10::Warning &warning) override {
    if (warning.msg().find("find_unused_parameters=True") == std::string::npos) c10::WarningHandler::process(warning);
  }
};

std::vector<uint8_t> bytes(const char *data, size_t length) {
  auto *first = reinterpret_cast<const uint8_t *>(data);
  return std::vector<uint8_t>(first, first + length);
}
} // namespace

extern "C" {

// Opens the store at host:port, and serves it where `serve`; on the listening socket `listen_fd` unless that is
// negative. It is tried for `timeout_ms`; what is asked of it later may take `patience_ms`.
char *nepa_store_open(const char *host, int port, bool serve, int listen_fd, int64_t timeout_ms, int64_t patience_ms,
                      Store **store) {
  return guarded([&] {
    // Connections that fail or break are told of in our words, without a stack of C++ each.
    if (!getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 3; // fatal ones alone
    c10d::TCPStoreOptions options;
    options.port = static_cast<std::uint16_t>(port);
    options.isServer = serve;
    options.waitWorkers = false;
    options.timeout = Milliseconds(timeout_ms);
    if (listen_fd >= 0) options.masterListenFd = listen_fd;
    c10::intrusive_ptr<c10d::Store> all = c10::make_intrusive<c10d::TCPStore>(host, options);
    all->setTimeout(Milliseconds(patience_ms));
    *store = new Store{all, c10::make_intrusive<c10d::PrefixStore>("nepa/", all)};
  });
}

// Puts the keys of this start apart from those of earlier ones.
char *nepa_store_enter(Store *store, const char *prefix) {
  return guarded([&] { store->attempt = c10::make_intrusive<c10d::PrefixStore>(prefix, store->all); });
}

// The same store over a connection of its own, for another thread.
char *nepa_store_clone(Store *store, Store **clone) {
  return guarded([&] {
    auto all = store->all->clone();
    *clone = new Store{all, store->attempt->clone()};
  });
}

void nepa_store_free(Store *store) { delete store; }

char *nepa_store_set(Store *store, bool lasting, const char *key, const char *data, size_t length) {
  return guarded([&] { (lasting ? store->all : store->attempt)->set(key, bytes(data, length)); });
}

// Sets `key` where nothing is there yet.
char *nepa_store_claim(Store *store, const char *key, const char *data, size_t length) {
  return guarded([&] { store->attempt->compareSet(key, {}, bytes(data, length)); });
}

// The value of `key`, to be freed, or null where there is none; never waits.
char *nepa_store_get(Store *store, bool lasting, const char *key, char **data, size_t *length) {
  *data = nullptr;
  return guarded([&] {
    auto &from = lasting ? store->all : store->attempt;
    if (!from->check({key})) return;
    auto value = from->get(key);
    *length = value.size();
    *data = static_cast<char *>(malloc(value.size() + 1));
    std::copy(value.begin(), value.end(), *data);
  });
}

// Connects all processes. `address` is where the others reach this machine (or `interface`, a network interface, where
// that is not empty). With `cuda` tensors on a GPU go through NCCL.
char *nepa_group_open(Store *store, int rank, int size, const char *address, const char *interface, bool cuda,
                      int64_t timeout_ms, Group **group) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(Milliseconds(timeout_ms));
    options->devices.push_back(*interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                          : c10d::ProcessGroupGloo::createDeviceForHostname(address));
    auto cpu_store = c10::make_intrusive<c10d::PrefixStore>("gloo/", store->attempt);
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(cpu_store, rank, size, options);
    auto all = c10::make_intrusive<c10d::ProcessGroup>(store->attempt, rank, size);
    all->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, gloo);
    all->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
    if (cuda) {
      if (!getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 2; // what NCCL's watchdog has to say
      auto cuda_store = c10::make_intrusive<c10d::PrefixStore>("nccl/", store->attempt);
      auto nccl = nepa_nccl(cuda_store, rank, size, Milliseconds(timeout_ms));
      all->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, nccl);
    }
    all->setGroupName("nepa");
    static Quiet quiet;
    c10::WarningUtils::set_warning_handler(&quiet);
    *group = new Group{all, size};
  });
}

// Reduces `tensor` in place: op 0 sums, 1 takes the least, 2 the greatest.
char *nepa_all_reduce(Group *group, Handle tensor, int op) {
  return guarded([&] {
    c10d::AllreduceOptions options;
    options.reduceOp = op == 0 ? c10d::ReduceOp::SUM : op == 1 ? c10d::ReduceOp::MIN : c10d::ReduceOp::MAX;
    std::vector<at::Tensor> tensors{*tensor};
    group->group->allreduce(tensors, options)->wait();
  });
}

// Begins to take the greatest of `tensor` over all processes, in place; nepa_work_wait waits for the end of it.
char *nepa_greatest_begin(Group *group, Handle tensor, Work **work) {
  return guarded([&] {
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::MAX;
    std::vector<at::Tensor> tensors{*tensor};
    *work = new Work{group->group->allreduce(tensors, options)};
  });
}

// Waits, and frees the work.
char *nepa_work_wait(Work *work) {
  return guarded([&] {
    std::unique_ptr<Work> own(work);
    own->work->wait();
  });
}

// Overwrites `tensor` with the one of process `from`.
char *nepa_broadcast(Group *group, Handle tensor, int from) {
  return guarded([&] {
    c10d::BroadcastOptions options;
    options.rootRank = from;
    std::vector<at::Tensor> tensors{*tensor};
    group->group->broadcast(tensors, options)->wait();
  });
}

// The same for many tensors at once, in pieces of 25 MB.
char *nepa_broadcast_all(Group *group, Handle *tensors, size_t n, int from) {
  return guarded([&] { c10d::broadcast_coalesced(group->group, list(tensors, n), 25 << 20, from); });
}

// The tensors of all processes, which have one shape and dtype: `size` new ones.
char *nepa_all_gather(Group *group, Handle tensor, Handle *gathered) {
  return guarded([&] {
    std::vector<at::Tensor> input{*tensor};
    std::vector<std::vector<at::Tensor>> output(1);
    for (int i = 0; i < group->size; ++i) output[0].push_back(at::empty_like(*tensor));
    group->group->allgather(output, input)->wait();
    for (int i = 0; i < group->size; ++i) gathered[i] = new at::Tensor(output[0][i]);
  });
}

// Makes sure that all processes have parameters of the same number, shapes and dtypes, and gives all those of rank 0.
char *nepa_same_params(Group *group, Handle *params, size_t n) {
  return guarded([&] {
    auto tensors = list(params, n);
    c10d::verify_params_across_processes(group->group, tensors, std::nullopt);
    c10d::broadcast_coalesced(group->group, tensors, 25 << 20, 0);
  });
}

// Averages the gradients of these parameters in each backward that was prepared for: nepa_reducer_prepare.
char *nepa_reducer_new(Group *group, Handle *params, size_t n, Reducer **reducer) {
  return guarded([&] {
    auto tensors = list(params, n);
    // DistributedDataParallel's own sizes: a small first bucket, so that the exchange begins early.
    const size_t first = c10d::kDefaultFirstBucketBytes, others = 25 << 20;
    std::vector<bool> dense(n, false);
    auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(tensors, {first, others}, dense));
    // Gradients come in the reverse order.
    std::reverse(buckets.begin(), buckets.end());
    auto made = std::make_unique<c10d::Reducer>(
        tensors, std::move(buckets), group->group, dense, static_cast<int64_t>(others),
        /*find_unused_parameters=*/true, /*gradient_as_bucket_view=*/false,
        std::unordered_map<size_t, std::string>{}, static_cast<int64_t>(first),
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
    *reducer = new Reducer{std::move(made)};
  });
}

// The next backward, from `loss`, averages.
char *nepa_reducer_prepare(Reducer *reducer, Handle loss) {
  return guarded([&] { reducer->reducer->prepare_for_backward({*loss}); });
}

void nepa_reducer_free(Reducer *reducer) { delete reducer; }
}
