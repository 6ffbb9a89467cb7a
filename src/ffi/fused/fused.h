// What the fused parts of a block share. Each computes a chain of operations as one node of the graph, with a backward
// of its own: fewer launches, and only what backward needs is kept, in the dtype that products are computed in.
//
// Products have the dtype `kind` (float32 or bfloat16); x, norms, rotation and the sum of the residual are float32.
#pragma once

#include "../shim.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace fused {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Kernels alone: no graph, and no casts but our own.
struct KernelsOnly {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{
      c10::DispatchKeySet({c10::DispatchKey::AutocastCPU, c10::DispatchKey::AutocastCUDA})};
};

inline at::Tensor tensor_or_none(Handle handle) { return handle ? *handle : at::Tensor(); }

inline std::optional<at::Tensor> given(const at::Tensor &tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

// The same values in another dtype, with one launch for all of them. What is not defined stays so.
std::vector<at::Tensor> cast(const std::vector<at::Tensor> &tensors, at::ScalarType kind);

// Gradients of weights, and of a norm's output as the last, in float32; on a CPU, whose norm takes it as it is, the last is
// left.
std::vector<at::Tensor> gradients_as_float(const std::vector<at::Tensor> &gradients);

// Parameters in the dtype that products are computed in. They are kept while the parameter is there and unchanged: the
// micro-batches of a step, and all batches of an evaluation, share them.
std::vector<at::Tensor> parameters(const std::vector<at::Tensor> &tensors, at::ScalarType kind);

// Drops what was kept of parameters that are gone or have changed.
void forget_old_parameters();

// A parameter times a LayerScale, of which `factors` is the view that fits. In bfloat16 it is kept, too.
at::Tensor scaled_parameter(const at::Tensor &tensor, const at::Tensor &scale, const at::Tensor &factors,
                            at::ScalarType kind);

// x Wᵀ + b, of x [n, inputs]; written to `out` if that is defined.
at::Tensor product(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, at::Tensor out = {});

// sum += x W, of x [n, outputs]; a sum that is not defined is 0.
void add_product(at::Tensor &sum, const at::Tensor &x, const at::Tensor &weight);

// What the backward of a LayerNorm needs.
struct Moments {
  at::Tensor mean, rstd;
};

// LayerNorm over the last dimension of x, float32, and its moments.
std::pair<at::Tensor, Moments> layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias,
                                          double eps);

// LN(x) as the rows that products take. In bfloat16 it is kept for backward; in float32 it would take as much as x does, and
// is computed again.
struct NormedRows {
  double eps = 0;
  Moments moments;
  at::Tensor kept; // in bfloat16

  at::Tensor forward(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, at::ScalarType kind);
  at::Tensor again(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) const;
};

// Gradients of x (plus `residual`, if that is defined), weight and bias of a LayerNorm; those of parameters that are not
// defined are none. `grad` is float32, or on a CPU in the dtype of products.
std::tuple<at::Tensor, at::Tensor, at::Tensor> layer_norm_backward(const at::Tensor &grad, const at::Tensor &x,
                                                                   const Moments &moments, const at::Tensor &weight,
                                                                   const at::Tensor &bias,
                                                                   const at::Tensor &residual = {});

// How a branch of a block ends: x + mask ⊙ scale ⊙ (a Wᵀ + b), in which the scale is put into W and b.
struct Projection {
  at::Tensor weight, bias, scale, mask; // the last three may be missing; the mask is [B, 1, 1]
};
struct ProjectionGrads {
  at::Tensor a, weight, bias, scale;
};

// `folded` becomes scale ⊙ W in bfloat16, if products are in that; backward needs it.
at::Tensor add_projection(const at::Tensor &x, const at::Tensor &a, const Projection &p, at::Tensor &folded);

// Gives the rows of a, when their gradient is there, which may be used up.
using InputsOf = std::function<at::Tensor(at::Tensor &grad)>;

// Gradients, of `grad` like x; that of x is `grad` itself, and that of a has rows. Those of the parameters only if they are
// `trained`. Without `folded` it is computed again: in float32 it is as large as W, and not kept.
ProjectionGrads projection_backward(const at::Tensor &grad, at::ScalarType kind, const InputsOf &inputs_of,
                                    const Projection &p, const at::Tensor &folded, bool trained);

// A node whose gradients are computed by kernels alone. It keeps its inputs as the graph does: one that was changed in
// between, or a second backward, is an error.
struct PartNode : torch::autograd::Node {
  std::vector<SavedVariable> inputs;

  // Gradients of all inputs, in their order; they may be missing where they are not wanted.
  virtual variable_list gradients(const variable_list &grads, const std::vector<at::Tensor> &inputs) = 0;
  virtual void forget() = 0;

  variable_list apply(variable_list &&grads) override;
  void release_variables() override;
  bool wants(size_t input) { return task_should_compute_output(input); }
};

// Runs a part: `compute` gives its outputs and fills the node in, which is connected to them if anything is trained.
template <class Node, class Compute>
std::vector<at::Tensor> run(const std::vector<at::Tensor> &inputs, Compute compute) {
  std::shared_ptr<Node> node(new Node(), torch::autograd::deleteNode);
  std::vector<at::Tensor> outputs;
  {
    KernelsOnly kernels;
    outputs = compute(*node);
  }
  if (!torch::autograd::compute_requires_grad(at::TensorList(inputs))) return outputs;
  for (const auto &input : inputs) node->inputs.emplace_back(input, /*is_output=*/false);
  node->set_next_edges(torch::autograd::collect_next_edges(at::TensorList(inputs)));
  for (auto &output : outputs) torch::autograd::set_history(output, node);
  return outputs;
}

} // namespace fused
