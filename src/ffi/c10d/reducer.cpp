// The reducer under DistributedDataParallel: averages gradients bucket by bucket while backward still runs.

#include "c10d.h"

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <memory>
#include <utility>

// c10d::Reducer leaves alone what no process has used, and takes "used" to mean: reached by a backward since the reducer
// was made. But gradients from before count too: the first step's earlier parts come before the reducer.
struct Reducer : c10d::Reducer {
  using c10d::Reducer::Reducer;

  void prepare(const at::Tensor &loss) {
    prepare_for_backward({loss});
    auto used = local_used_map_.accessor<int, 1>();
    for (size_t i = 0; i < params_.size(); i++) used[static_cast<int64_t>(i)] = params_[i].grad().defined();
    // Its work begins where backward reaches a parameter. If this loss depends on none, the other processes' may.
    if (unused_parameters_.size() < params_.size() || !loss.requires_grad()) return;
    auto first = std::make_shared<bool>(true);
    loss.register_hook([this, first](const at::Tensor &) {
      if (!std::exchange(*first, false)) return;
      const auto some = unused_parameters_.back();
      unused_parameters_.pop_back();
      autograd_hook(some);
    });
  }
};

namespace {
// find_unused_parameters costs a walk over the graph, which is little beside the rest, and the user need not know which
// parameters take part. This drops the reducer's advice to turn it off.
struct Quiet : c10::WarningHandler {
  void process(const c10::Warning &warning) override {
    if (warning.msg().find("find_unused_parameters=True") == std::string::npos) c10::WarningHandler::process(warning);
  }
};
} // namespace

extern "C" {

// Averages the gradients of these parameters in each backward that was prepared for: nepa_reducer_prepare.
Fault *nepa_reducer_new(ProcessGroup *group, Handle *params, size_t n, Reducer **reducer) {
  return guarded([&] {
    static Quiet quiet;
    c10::WarningUtils::set_warning_handler(&quiet);
    auto tensors = list(params, n);
    // As DistributedDataParallel: a small first bucket, so that the exchange begins early.
    const size_t first = c10d::kDefaultFirstBucketBytes, others = BUCKET_BYTES;
    std::vector<bool> dense(n, false);
    auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(tensors, {first, others}, dense));
    // Gradients come in the reverse order.
    std::reverse(buckets.begin(), buckets.end());
    auto made = std::make_unique<Reducer>(
        tensors, std::move(buckets), group->group, dense, static_cast<int64_t>(others),
        /*find_unused_parameters=*/true, /*gradient_as_bucket_view=*/false,
        std::unordered_map<size_t, std::string>{}, static_cast<int64_t>(first),
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
    *reducer = made.release();
  });
}

// The next backward, from `loss`, averages.
Fault *nepa_reducer_prepare(Reducer *reducer, Handle loss) {
  return guarded([&] { reducer->prepare(*loss); });
}

void nepa_reducer_free(Reducer *reducer) { delete reducer; }
}
