// Backward, and activation checkpointing (torch.utils.checkpoint, the reentrant kind) around a closure of Rust's: a
// block keeps only its input, and backward recomputes the rest. The block's parameters are inputs of its node, so that
// their gradients are summed and accumulated in the surrounding graph, as without it.

#include "shim.h"

#include <ATen/ops/_foreach_add.h>
#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/utils/grad_layout_contract.h>

#include <memory>
#include <stdexcept>
#include <unordered_set>
#include <vector>

namespace {
// Takes ownership of the input and gives that of the output; null where it failed, and Rust has the error.
using Compute = Handle (*)(void *closure, Handle input);

// The leaves that a tensor was computed from and that have gradients.
std::vector<at::Tensor> leaves_of(const at::Tensor &output) {
  std::vector<at::Tensor> leaves;
  auto root = torch::autograd::impl::gradient_edge(output);
  std::vector<torch::autograd::Node *> open{root.function.get()};
  std::unordered_set<torch::autograd::Node *> seen;
  while (!open.empty()) {
    auto *node = open.back();
    open.pop_back();
    if (!node || !seen.insert(node).second) continue;
    // One may have been frozen since.
    auto *leaf = dynamic_cast<torch::autograd::AccumulateGrad *>(node);
    if (leaf && leaf->variable.requires_grad()) leaves.push_back(leaf->variable);
    for (const auto &edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return leaves;
}

struct RecomputeNode : torch::autograd::Node {
  torch::autograd::SavedVariable input;
  std::vector<at::Tensor> parameters; // next edges after the input's
  std::shared_ptr<void> closure;
  Compute compute;

  std::string name() const override { return "Recompute"; }

  torch::autograd::variable_list apply(torch::autograd::variable_list &&grads) override {
    auto kept = input.unpack(shared_from_this()); // an error where another backward used the graph up
    auto own = closure;
    torch::autograd::variable_list result(num_outputs());
    if (!grads[0].defined()) return result;
    at::AutoGradMode enable_grad(true);
    auto leaf = kept.detach().set_requires_grad(task_should_compute_output(0));
    std::unique_ptr<at::Tensor> output(compute(own.get(), new at::Tensor(leaf)));
    if (!output) throw std::runtime_error("recomputing a block failed");
    // It need not depend on anything that is trained.
    if (!output->requires_grad()) return result;

    // Where in the result each gradient goes. A parameter may have been frozen since.
    std::vector<at::Tensor> inputs;
    std::vector<size_t> slots;
    for (size_t i = 0; i < result.size(); i++) {
      const auto &of = i == 0 ? leaf : parameters[i - 1];
      if (!of.requires_grad() || !task_should_compute_output(i)) continue;
      inputs.push_back(of);
      slots.push_back(i);
    }
    // What else the closure uses (a tensor that a script's function captured) is not next to this node. Where it was
    // computed from leaves, others may need that graph after us.
    std::unordered_set<at::TensorImpl *> known{leaf.unsafeGetTensorImpl()};
    for (const auto &parameter : parameters) known.insert(parameter.unsafeGetTensorImpl());
    for (auto &other : leaves_of(*output))
      if (known.insert(other.unsafeGetTensorImpl()).second) inputs.push_back(std::move(other));
    if (inputs.empty()) return result;

    auto found = torch::autograd::grad({*output}, inputs, {grads[0]}, /*retain_graph=*/inputs.size() > slots.size(),
                                       /*create_graph=*/false, /*allow_unused=*/true);
    for (size_t i = 0; i < slots.size(); i++) result[slots[i]] = std::move(found[i]);
    torch::autograd::variable_list others, others_grads;
    for (size_t i = slots.size(); i < inputs.size(); i++) {
      if (!found[i].defined()) continue;
      others.push_back(inputs[i]);
      others_grads.push_back(std::move(found[i]));
    }
    if (!others.empty()) torch::autograd::backward(others, others_grads);
    return result;
  }

  void release_variables() override {
    input.reset_data();
    parameters.clear();
    closure.reset();
  }
};
} // namespace

extern "C" {

// Adds the gradients of the scalar `loss` to its leaves. Where they have gradients already, all are added with a few
// launches; the graph's own nodes, which have hooks, would take one for each leaf.
Fault *nepa_backward(Handle loss, bool through_hooks) {
  return caught([&] {
    std::vector<at::Tensor> leaves;
    if (!through_hooks && loss->requires_grad()) leaves = leaves_of(*loss);
    bool again = false;
    for (const auto &leaf : leaves) again |= leaf.grad().defined();
    if (!again) return loss->backward();

    auto found = torch::autograd::grad({*loss}, leaves, {}, /*retain_graph=*/false, /*create_graph=*/false,
                                       /*allow_unused=*/true);
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> sums, summands;
    for (size_t i = 0; i < leaves.size(); i++) {
      if (!found[i].defined()) continue;
      auto &sum = leaves[i].mutable_grad();
      // In memory of its own, laid out as the leaf: what was found may be a view, or belong to several leaves.
      if (!sum.defined()) {
        sum = torch::autograd::utils::clone_obey_contract(found[i].detach(), leaves[i]);
        continue;
      }
      sums.push_back(sum);
      summands.push_back(found[i]);
    }
    if (!sums.empty()) at::_foreach_add_(sums, summands);
  });
}

// Whether this thread records operations for backward.
bool nepa_grad_enabled() { return at::GradMode::is_enabled(); }

// Keeps backward of this thread's graphs on this thread, also for CUDA tensors.
void nepa_single_threaded_backward() { c10::AutogradState::get_tls_state().set_multithreading_enabled(false); }

// `output`, computed from `input` and `count` trained parameters without a graph, as a new tensor whose backward calls
// the closure for it once more. The closure is dropped with the graph.
Fault *nepa_recompute(Handle input, const Handle *parameters, size_t count, Handle output, void *closure,
                      Compute compute, void (*drop)(void *), Handle *connected) {
  std::shared_ptr<void> own(closure, drop);
  return caught([&] {
    std::shared_ptr<RecomputeNode> node(new RecomputeNode(), torch::autograd::deleteNode);
    node->compute = compute;
    node->closure = std::move(own);
    node->input = torch::autograd::SavedVariable(*input, /*is_output=*/false);
    node->parameters = list(parameters, count);
    node->set_next_edges(torch::autograd::collect_next_edges(*input, at::TensorList(node->parameters)));
    auto result = output->detach();
    torch::autograd::set_history(result, node);
    *connected = new at::Tensor(result);
  });
}
}
