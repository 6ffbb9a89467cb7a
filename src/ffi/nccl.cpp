#include "shim.h"
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
c10::intrusive_ptr<c10d::Backend> nepa_nccl(const c10::intrusive_ptr<c10d::Store> &, int, int, std::chrono::milliseconds) { throw std::runtime_error("not yet"); }
