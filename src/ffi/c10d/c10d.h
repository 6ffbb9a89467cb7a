// What the parts of the c10d shim share: the objects that Rust holds. c10d is PyTorch's engine for processes that train
// together, as it ships in libtorch.
#pragma once

#define USE_C10D_GLOO
#include "../shim.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <c10/util/Logging.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

using Milliseconds = std::chrono::milliseconds;

constexpr size_t BUCKET_BYTES = 25 << 20; // DistributedDataParallel's own

struct Store {
  c10::intrusive_ptr<c10d::Store> lasting; // keys that outlive a restart by torchrun
  c10::intrusive_ptr<c10d::Store> start;   // keys of this start
};

struct ProcessGroup {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  int size;
};

// Lets c10d's own log print lines of this level and above, unless the user has chosen one: a connection that breaks is
// told in our words, without a C++ stack each.
inline void limit_log(int level) {
  if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = level;
}
