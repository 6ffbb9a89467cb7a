// A part of a network that keeps only its input and is computed again in backward
// (torch.utils.checkpoint, the reentrant kind), around a closure of Rust's.

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>

using Handle = at::Tensor *; // what tch calls C_tensor*

namespace {
// Takes the input over and gives the output, to be taken over; null where it failed: Rust has the error.
using Compute = Handle (*)(void *closure, Handle input);

struct Again : torch::autograd::Node {
  torch::autograd::SavedVariable input;
  std::shared_ptr<void> closure;
  Compute compute;

  std::string name() const override { return "ComputedAgain"; }

  torch::autograd::variable_list apply(torch::autograd::variable_list &&grads) override {
    auto kept = input.unpack(shared_from_this()); // an error where another backward used the graph up
    auto own = closure;
    if (!grads[0].defined()) return {at::Tensor()};
    at::AutoGradMode enable_grad(true);
    auto leaf = kept.detach().set_requires_grad(should_compute_output(0));
    std::unique_ptr<at::Tensor> output(compute(own.get(), new at::Tensor(leaf)));
    if (!output) throw std::runtime_error("computing a block again failed");
    // It need not depend on anything that is trained.
    if (output->requires_grad()) torch::autograd::backward({*output}, {grads[0]});
    return {leaf.grad()};
  }

  void release_variables() override {
    input.reset_data();
    closure.reset();
  }
};
} // namespace

extern "C" {

// Whether operations of this thread are recorded for backward.
bool nepa_grad_enabled() { return at::GradMode::is_enabled(); }

// `output`, computed from `input` without a graph, as a new tensor whose backward calls the closure for it again.
// The closure is dropped with the graph. Returns nullptr when it went well, else a message to free.
char *nepa_computed_again(Handle input, Handle output, void *closure, Compute compute, void (*drop)(void *),
                          Handle *connected) {
  std::shared_ptr<void> own(closure, drop);
  try {
    std::shared_ptr<Again> node(new Again(), torch::autograd::deleteNode);
    node->compute = compute;
    node->closure = std::move(own);
    node->input = torch::autograd::SavedVariable(*input, /*is_output=*/false);
    node->set_next_edges(torch::autograd::collect_next_edges(*input));
    auto result = output->detach();
    torch::autograd::set_history(result, node);
    *connected = new at::Tensor(result);
    return nullptr;
  } catch (const std::exception &e) {
    return strdup(e.what());
  }
}
}
