// How the attention of a block ends: product, LayerScale, drop path and residual.
//
//   y = x + mask ⊙ scale ⊙ (a Wᵀ + b)
//
// Kept for backward: a (which the attention keeps too). The scale goes into W and b, and its gradient comes from theirs:
// ∂scale = Σ (∂W' ⊙ W) + ∂b' ⊙ b, with the gradients W' and b' would have without it.

#include "fused.h"

namespace fused {

struct ProjectionNode : PartNode {
  at::Tensor folded;

  std::string name() const override { return "FusedProjection"; }
  void forget() override { folded.reset(); }

  variable_list gradients(const variable_list &grads, const std::vector<at::Tensor> &in) override {
    if (!grads[0].defined()) return variable_list(6);
    auto trained = wants(2) || wants(3) || wants(4);
    const auto &a = in[1];
    auto rows = [&](at::Tensor &) { return a.reshape({-1, a.size(-1)}); };
    auto found = projection_backward(grads[0], a.scalar_type(), rows, {in[2], in[3], in[4], in[5]}, folded, trained);
    return {grads[0], found.a.view_as(a), found.weight, found.bias, found.scale, {}};
  }
};

} // namespace fused

extern "C" {

// `inputs`: x [B, N, D], a, weight, bias, scale and mask; null where there is none.
Fault *nepa_fused_projection(const Handle *inputs, Handle *output) {
  return caught([&] {
    using namespace fused;
    std::vector<at::Tensor> in;
    for (int i = 0; i < 6; i++) in.push_back(tensor_or_none(inputs[i]));
    auto outputs = run<ProjectionNode>(in, [&](ProjectionNode &node) -> std::vector<at::Tensor> {
      return {add_projection(in[0], in[1], {in[2], in[3], in[4], in[5]}, node.folded)};
    });
    *output = new at::Tensor(outputs[0]);
  });
}
}
