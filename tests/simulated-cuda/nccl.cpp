// NCCL's process group, run by Gloo on the shadow. nepa finds two constructors of c10d::ProcessGroupNCCL by name; the
// compiler gives those below the same names. What nepa does not use, Backend refuses.

#include "simulated.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <thread>

namespace simulated {

// A collective that is done. Its outputs are ready for what comes next on the device; the host has not waited.
struct Collective final : c10d::Work {
  Collective(int rank, c10d::OpType type, Device device, std::vector<Tensor> tensors)
      : Work(rank, type), tensors(std::move(tensors)) {
    future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()),
                                                      std::vector<Device>{device});
    future->markCompleted(IValue(this->tensors));
  }

  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
  void synchronize() override {}
  std::vector<Tensor> result() override { return tensors; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future; }

private:
  std::vector<Tensor> tensors;
  c10::intrusive_ptr<c10::ivalue::Future> future;
};

// As libtorch words what NCCL returns.
[[noreturn]] static void nccl_error(const char *what, const char *code, const std::string &last) {
  C10_THROW_ERROR(DistBackendError,
                  c10::str("NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3699, ", what,
                           ", NCCL version 2.28.9\n", code, "\nLast error:\n", last));
}

[[noreturn]] static void lost_peer(const std::exception &error) {
  nccl_error("remote process exited or there was a network error",
             "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
             error.what());
}

// libtorch's watchdog, a thread that looks for errors of the device and of collectives. It ends with one, and so does the
// process, since nothing catches it.
class Watchdog {
public:
  void start(int rank) {
    std::thread([this, rank] {
      try {
        for (;; std::this_thread::sleep_for(std::chrono::milliseconds(100))) {
          check_not_lost();
          std::lock_guard<std::mutex> lock(mutex);
          if (found) std::rethrow_exception(found);
        }
      } catch (const std::exception &error) {
        C10_THROW_ERROR(DistBackendError,
                        c10::str("[PG ID 0 PG GUID 0 Rank ", rank,
                                 "] Process group watchdog thread terminated with exception: ", error.what()));
      }
    }).detach();
  }

  void tell(std::exception_ptr error) {
    std::lock_guard<std::mutex> lock(mutex);
    found = error;
  }

private:
  std::mutex mutex;
  std::exception_ptr found;
};

// Never destroyed: its thread runs to the end of the process.
static Watchdog &watchdog() {
  static auto *one = new Watchdog();
  return *one;
}

} // namespace simulated

namespace c10d {

class ProcessGroupNCCL final : public Backend {
public:
  struct Options : Backend::Options {
    explicit Options(bool is_high_priority_stream = false);
  };

  ProcessGroupNCCL(c10::intrusive_ptr<Store> store, int rank, int size, c10::intrusive_ptr<Options> options);

  const std::string getBackendName() const override { return "nccl"; }
  c10::intrusive_ptr<Backend::Options> getBackendOptions() override { return options; }
  void setSequenceNumberForGroup() override {} // begins at 0
  uint64_t getSequenceNumberForGroup() override { return sequence; }

  c10::intrusive_ptr<Work> allreduce(std::vector<at::Tensor> &tensors, const AllreduceOptions &opts) override {
    return run("allreduce", OpType::ALLREDUCE, only(tensors), tensors, [&](auto &gloo, auto host) {
      std::vector<at::Tensor> hosts{host(tensors[0])};
      return gloo.allreduce(hosts, opts);
    });
  }

  c10::intrusive_ptr<Work> broadcast(std::vector<at::Tensor> &tensors, const BroadcastOptions &opts) override {
    return run("broadcast", OpType::BROADCAST, only(tensors), tensors, [&](auto &gloo, auto host) {
      std::vector<at::Tensor> hosts{host(tensors[0])};
      return gloo.broadcast(hosts, opts);
    });
  }

  c10::intrusive_ptr<Work> allgather(std::vector<std::vector<at::Tensor>> &outputs, std::vector<at::Tensor> &inputs,
                                     const AllgatherOptions &opts) override {
    const auto &input = only(inputs);
    for (const auto &output : outputs.at(0)) usable(output);
    return run("allgather", OpType::ALLGATHER, input, outputs[0], [&](auto &gloo, auto host) {
      std::vector<at::Tensor> from{host(input)};
      std::vector<std::vector<at::Tensor>> to(1);
      for (const auto &output : outputs[0]) to[0].push_back(host(output));
      return gloo.allgather(to, from, opts);
    });
  }

private:
  // NCCL takes what one device holds in one piece.
  static void usable(const at::Tensor &tensor) {
    TORCH_CHECK_VALUE(tensor.is_cuda() && !tensor.is_sparse(), "Tensors must be CUDA and dense");
    TORCH_CHECK_VALUE(tensor.is_contiguous(), "Tensors must be contiguous");
  }

  static const at::Tensor &only(const std::vector<at::Tensor> &tensors) {
    TORCH_CHECK(tensors.size() == 1, "ProcessGroupNCCL only supports one tensor of each process, found ",
                tensors.size());
    usable(tensors[0]);
    return tensors[0];
  }

  // Runs a collective as a kernel of the device of `of`. All tensors are there.
  template <class F>
  c10::intrusive_ptr<Work> run(const char *name, OpType type, const at::Tensor &of, std::vector<at::Tensor> outputs,
                               F begin) {
    sequence++;
    connect(of.get_device());
    for (const auto &output : outputs)
      TORCH_CHECK_VALUE(output.device() == of.device(), "Tensor list must have tensors of one device");
    simulated::record(simulated::Event::COLLECTIVE, name, {1, 2 * of.nbytes(), false}, outputs);
    simulated::Bridge bridge(of.get_device());
    try {
      compare(name, type, of);
      begin(*gloo, [&](const at::Tensor &t) { return bridge.to_host(t); })->wait();
    } catch (const std::exception &error) {
      without_end(error);
    }
    return c10::make_intrusive<simulated::Collective>(rank_, type, of.device(), std::move(outputs));
  }

  // NCCL pairs the ranks' collectives by their order alone: where they differ, it hangs or gives anything.
  void compare(const char *name, OpType type, const at::Tensor &of) {
    auto own = at::zeros({3}, at::kLong);
    own[0] = int64_t(type), own[1] = of.numel(), own[2] = int64_t(of.scalar_type());
    std::vector<at::Tensor> from{own};
    std::vector<std::vector<at::Tensor>> to(1);
    for (int rank = 0; rank < size_; rank++) to[0].push_back(at::empty_like(own));
    gloo->allgather(to, from)->wait();
    for (int rank = 0; rank < size_; rank++) {
      if (to[0][rank].equal(own)) continue;
      fprintf(stderr, "simulated CUDA: rank %d calls %s of %lld elements where rank %d calls another collective\n", rank_,
              name, static_cast<long long>(of.numel()), rank);
      abort();
    }
  }

  // Joins the others, with the first collective.
  void connect(int index) {
    if (gloo) {
      TORCH_CHECK(index == device, "this rank's collectives were on cuda:", device, ", this one is on cuda:", index);
      return;
    }
    device = index;
    try {
      compare_gpus();
      auto over = ProcessGroupGloo::Options::create(options->timeout);
      over->devices.push_back(ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
      auto ranks = c10::make_intrusive<PrefixStore>("ranks/", store);
      gloo = c10::make_intrusive<ProcessGroupGloo>(ranks, rank_, size_, over);
    } catch (const c10::DistBackendError &) {
      throw;
    } catch (const std::exception &error) {
      simulated::lost_peer(error);
    }
    simulated::watchdog().start(rank_);
  }

  // Two processes cannot have one GPU.
  void compare_gpus() {
    auto key = [](int rank) { return "gpu/" + std::to_string(rank); };
    auto gpu = std::to_string(simulated::settings().gpus[device]);
    store->set(key(rank_), std::vector<uint8_t>(gpu.begin(), gpu.end()));
    for (int other = 0; other < size_; other++) {
      auto found = store->get(key(other));
      if (other != rank_ && std::string(found.begin(), found.end()) == gpu)
        simulated::nccl_error("invalid usage (run with NCCL_DEBUG=WARN for details)",
                              "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.",
                              c10::str("Duplicate GPU detected : rank ", rank_, " and rank ", other,
                                       " both on CUDA device ", gpu));
    }
  }

  // A peer is lost: the collective never ends, and so does whatever waits for it. Over a network the watchdog learns of
  // it; within a machine nobody does.
  [[noreturn]] static void without_end(const std::exception &error) {
    if (!simulated::settings().silent_peers) {
      try {
        simulated::lost_peer(error);
      } catch (...) {
        simulated::watchdog().tell(std::current_exception());
      }
    }
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }

  c10::intrusive_ptr<Store> store;
  c10::intrusive_ptr<Options> options;
  c10::intrusive_ptr<ProcessGroupGloo> gloo;
  int device = -1;
  uint64_t sequence = 0;
};

// Not inline: nepa looks for their symbols.
ProcessGroupNCCL::Options::Options(bool) : Backend::Options("nccl") {}

ProcessGroupNCCL::ProcessGroupNCCL(c10::intrusive_ptr<Store> store, int rank, int size,
                                   c10::intrusive_ptr<Options> options)
    : Backend(rank, size), store(std::move(store)), options(std::move(options)) {
  TORCH_CHECK_VALUE(simulated::settings().gpus.size() > 0, "ProcessGroupNCCL is only supported with GPUs, no GPUs found!");
}

} // namespace c10d
