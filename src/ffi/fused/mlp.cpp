// The feed-forward branch of a block, plain or gated.
//
//   h = LN(x);  u = h Uᵀ + b;  g = h Gᵀ + c;  y = x + mask ⊙ scale ⊙ (i Wᵀ + d),  i = act(u), or act(g) ⊙ u
//
// Kept for backward: x (shared with the residual), u (and g), in bfloat16 h, and mean and deviation of the norm. i is
// computed again, in float32 h too.

#include "cpu.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/sum.h>

#include <utility>

namespace fused {

enum class Activation { GELU = 0, SILU = 1 }; // as in Rust

static at::Tensor activated(Activation act, const at::Tensor &x) {
  return act == Activation::GELU ? at::gelu(x) : at::silu(x);
}

static at::Tensor activated_backward(Activation act, const at::Tensor &grad, const at::Tensor &x) {
  return act == Activation::GELU ? at::gelu_backward(grad, x) : at::silu_backward(grad, x);
}

struct MlpNode : PartNode {
  // Places of the inputs.
  enum { X, NORM_WEIGHT, NORM_BIAS, UP, UP_BIAS, GATE, GATE_BIAS, DOWN, DOWN_BIAS, SCALE, MASK, INPUTS };

  Activation act;
  NormedRows rows;
  at::Tensor up, gate;                       // outputs of the products
  at::Tensor up_weight, gate_weight, folded; // in `kind`

  std::string name() const override { return "FusedMlp"; }

  void forget() override {
    rows = {};
    up = gate = up_weight = gate_weight = folded = at::Tensor();
  }

  static Projection end(const std::vector<at::Tensor> &in) { return {in[DOWN], in[DOWN_BIAS], in[SCALE], in[MASK]}; }

  at::Tensor inner(const at::Tensor &active) const { return gate.defined() ? at::mul(active, up) : active; }

  variable_list gradients(const variable_list &grads, const std::vector<at::Tensor> &in) override {
    variable_list found(INPUTS);
    if (!grads[0].defined()) return found;
    const auto &x = in[X];
    auto trained = wants(DOWN) || wants(DOWN_BIAS) || wants(SCALE);
    // Of the inner products, which are the largest; what is not needed any more goes at once.
    at::Tensor of_up, of_gate, sum_of_up;
    auto through_activation = [&](at::Tensor &of_inner) {
      if (has_cpu_kernels(x) && act == Activation::GELU && !gate.defined()) {
        auto [active, sum] = cpu::gelu_backward(up, of_inner);
        of_up = of_inner, sum_of_up = sum;
        return active;
      }
      auto active = activated(act, gate.defined() ? gate : up);
      if (gate.defined()) {
        of_up = at::mul(of_inner, active);
        of_gate = activated_backward(act, at::mul(of_inner, up), gate);
      } else {
        of_up = activated_backward(act, of_inner, up);
      }
      of_inner.reset();
      return inner(active);
    };
    auto end_grads = projection_backward(grads[0], up.scalar_type(), through_activation, end(in), folded, trained);
    found[DOWN] = end_grads.weight, found[DOWN_BIAS] = end_grads.bias, found[SCALE] = end_grads.scale;

    at::Tensor h, back;
    if (wants(UP) || wants(GATE)) h = rows.again(x, in[NORM_WEIGHT], in[NORM_BIAS]);
    auto through = [&](const at::Tensor &grad, const at::Tensor &weight, size_t place, const at::Tensor &sum) {
      if (wants(place)) found[place] = at::mm(grad.t(), h);
      if (wants(place + 1)) found[place + 1] = sum.defined() ? sum : at::sum(grad, 0, /*keepdim=*/false, at::kFloat);
      add_product(back, grad, weight);
    };
    through(of_up, up_weight, UP, sum_of_up);
    if (gate.defined()) through(of_gate, gate_weight, GATE, {});
    auto all = gradients_as_float({found[UP], found[GATE], back});
    found[UP] = all[0], found[GATE] = all[1];
    std::tie(found[X], found[NORM_WEIGHT], found[NORM_BIAS]) =
        layer_norm_backward(all[2].view_as(x), x, rows.moments, in[NORM_WEIGHT], in[NORM_BIAS], grads[0]);
    return found;
  }
};

} // namespace fused

extern "C" {

// `inputs`: x [B, N, D], the norm's weight and bias, weight and bias of up, gate and down, scale and mask; null where there
// is none.
Fault *nepa_fused_mlp(const Handle *inputs, int act, double eps, bool bfloat16, Handle *output) {
  return caught([&] {
    using namespace fused;
    using Node = MlpNode;
    std::vector<at::Tensor> in;
    for (int i = 0; i < Node::INPUTS; i++) in.push_back(tensor_or_none(inputs[i]));
    auto kind = bfloat16 ? at::kBFloat16 : at::kFloat;
    auto outputs = run<Node>(in, [&](Node &node) -> std::vector<at::Tensor> {
      const auto &x = in[Node::X];
      node.act = static_cast<fused::Activation>(act);
      node.rows.eps = eps;
      auto h = node.rows.forward(x, in[Node::NORM_WEIGHT], in[Node::NORM_BIAS], kind);
      auto products = parameters({in[Node::UP], in[Node::UP_BIAS], in[Node::GATE], in[Node::GATE_BIAS]}, kind);
      node.up_weight = products[0], node.gate_weight = products[2];
      node.up = product(h, products[0], products[1]);
      if (node.gate_weight.defined()) node.gate = product(h, products[2], products[3]);
      h.reset();
      auto inner = node.inner(activated(node.act, node.gate.defined() ? node.gate : node.up));
      return {add_projection(x, inner, Node::end(in), node.folded)};
    });
    *output = new at::Tensor(outputs[0]);
  });
}
}
