// Queries, keys and values of a block: LayerNorm, three products, QK-norm, rotary embedding.
//
//   h = LN(x);  [q, k, v] = h Wᵢᵀ + bᵢ;  q, k = rotate(LN(q) ⊙ w + b), over the width of a head
//
// Kept for backward: x (shared with the residual), q and k before their norm, in bfloat16 h, and mean and deviation of each
// norm. In float32 h is computed again. A norm of q and k without weights is found again in q and k, on a CPU, if the
// rotary tables only turn.

#include "cpu.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/le.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>


namespace fused {

// Cosines and sines [N, 1, d] or [B, N, 1, d]; tokens before the patches are not turned.
struct Rotation {
  at::Tensor cos, sin;
  // Whether they are those of angles, on a CPU: a script's own tables may scale, or differ in their halves.
  bool is_rotation;

  // Of angles [2, T, d] or [2, B, 1, T, d]. All blocks of a forward pass ask for the same one.
  static Rotation of(const at::Tensor &angles, int64_t tokens) {
    thread_local std::tuple<at::Tensor, uint32_t, int64_t, Rotation> last;
    auto &[known, version, for_tokens, rotation] = last;
    if (known.defined() && known.is_same(angles) && version == angles._version() && for_tokens == tokens)
      return rotation;
    auto tables = angles.dim() == 3 ? angles.unsqueeze(2) : angles.transpose(2, 3); // [2, (B,) T, 1, d]
    auto side = [&](int64_t i) {
      auto table = tables[i];
      auto sizes = table.sizes().vec();
      auto &length = sizes[sizes.size() - 3];
      length = tokens - length;
      if (length == 0) return table.clone(at::MemoryFormat::Contiguous); // backward must not see later changes
      auto before = i == 0 ? at::ones(sizes, table.options()) : at::zeros(sizes, table.options());
      return at::cat({before, table}, -3);
    };
    last = {angles, angles._version(), tokens, Rotation{side(0), side(1), false}};
    rotation.is_rotation = angles.is_cpu() && rotation.turns();
    return rotation;
  }

  bool turns() const {
    auto halves_agree = [](const at::Tensor &t) {
      auto half = t.size(-1) / 2;
      return at::equal(t.narrow(-1, 0, half), t.narrow(-1, half, half));
    };
    auto radius = at::mul(cos, cos).addcmul_(sin, sin, 1).sub_(1);
    return halves_agree(cos) && halves_agree(sin) && at::le(radius.abs_(), 1e-5).all().item<bool>();
  }

  // x [2, B, N, H, d] turned, or turned back; float32.
  at::Tensor turn(const at::Tensor &x, bool back) const {
    auto half = x.size(-1) / 2;
    auto y = at::mul(x, cos);
    auto first = [&](const at::Tensor &t) { return t.narrow(-1, 0, half); };
    auto second = [&](const at::Tensor &t) { return t.narrow(-1, half, half); };
    if (back) {
      first(y).addcmul_(second(x), second(sin), 1);
      second(y).addcmul_(first(x), first(sin), -1);
    } else {
      first(y).addcmul_(second(x), first(sin), -1);
      second(y).addcmul_(first(x), second(sin), 1);
    }
    return y;
  }
};

struct QkvNode : PartNode {
  // Places of the inputs.
  enum { X, NORM_WEIGHT, NORM_BIAS, WEIGHTS, BIASES = 6, QK_WEIGHTS = 9, QK_BIASES = 11, INPUTS = 13 };

  NormedRows rows;
  std::vector<at::Tensor> weights; // in `kind`
  // If they are normed: q and k before, or where that is enough after the norm, [B, N, H, d] each; by ATen's operations one
  // of both, [2, B, N, H, d].
  std::vector<at::Tensor> around_norm;
  std::vector<Moments> qk_moments;
  bool has_norm = false;
  double qk_eps = 0;
  std::optional<Rotation> rotation;
  int64_t head = 0; // its width

  std::string name() const override { return "FusedQkv"; }

  void forget() override {
    rows = {};
    weights.clear();
    around_norm.clear();
    qk_moments.clear();
    rotation.reset();
  }

  // In forward and backward.
  bool has_kernels(const at::Tensor &x) const { return has_cpu_kernels(x) && head <= kernels::WIDEST_HEAD; }

  cpu::QkPart part(const std::vector<at::Tensor> &in, int i) const {
    return {has_norm, in[QK_WEIGHTS + i], in[QK_BIASES + i], qk_eps, rotation ? rotation->cos : at::Tensor(),
            rotation ? rotation->sin : at::Tensor(), !rotation || rotation->is_rotation};
  }

  variable_list gradients(const variable_list &grads, const std::vector<at::Tensor> &in) override {
    variable_list found(INPUTS);
    if (!grads[0].defined() && !grads[1].defined() && !grads[2].defined()) return found;
    const auto &x = in[X];
    auto kind = weights[0].scalar_type();
    auto width = x.size(-1);
    auto of = [&](size_t i) {
      if (grads[i].defined()) return grads[i].transpose(1, 2);
      return at::zeros({x.size(0), x.size(1), width / head, head}, x.options().dtype(kind));
    };
    at::Tensor sides[3];
    if (has_kernels(x)) {
      for (int i = 0; i < 2; i++) {
        auto side = cpu::qk_backward(part(in, i), of(i).transpose(1, 2), has_norm ? around_norm[i] : at::Tensor(),
                                     has_norm ? qk_moments[i] : Moments());
        sides[i] = side.x, found[BIASES + i] = side.sum, found[QK_WEIGHTS + i] = side.weight, found[QK_BIASES + i] = side.bias;
      }
      sides[2] = of(2).reshape({-1, width});
      if (wants(BIASES + 2)) found[BIASES + 2] = at::sum(sides[2], 0, /*keepdim=*/false, at::kFloat);
    } else {
      qk_gradients(in, of, sides, found);
    }

    at::Tensor h, back;
    if (wants(WEIGHTS) || wants(WEIGHTS + 1) || wants(WEIGHTS + 2)) h = rows.again(x, in[NORM_WEIGHT], in[NORM_BIAS]);
    for (int i = 0; i < 3; i++) {
      if (wants(WEIGHTS + i)) found[WEIGHTS + i] = at::mm(sides[i].t(), h);
      add_product(back, sides[i], weights[i]);
    }
    auto all = gradients_as_float({found[WEIGHTS], found[WEIGHTS + 1], found[WEIGHTS + 2], back});
    for (int i = 0; i < 3; i++) found[WEIGHTS + i] = all[i];
    std::tie(found[X], found[NORM_WEIGHT], found[NORM_BIAS]) =
        layer_norm_backward(all[3].view_as(x), x, rows.moments, in[NORM_WEIGHT], in[NORM_BIAS]);
    return found;
  }

  // Gradients of the outputs of the three products, of those of q, k and v [B, N, H, d] as `of` gives them; and of the biases
  // and the QK-norm.
  template <class Of>
  void qk_gradients(const std::vector<at::Tensor> &in, Of of, at::Tensor (&sides)[3], variable_list &found) {
    auto kind = weights[0].scalar_type();
    auto width = in[X].size(-1);
    auto qk = at::stack({of(0), of(1)});
    if (rotation) qk = rotation->turn(qk, /*back=*/true);
    if (has_norm) {
      auto input = around_norm[0].to(at::kFloat);
      const auto &moments = qk_moments[0];
      qk = qk.to(at::kFloat);
      if (in[QK_WEIGHTS].defined()) {
        auto normed = at::mul(input - moments.mean, moments.rstd);
        for (int i = 0; i < 2; i++) {
          found[QK_WEIGHTS + i] = at::sum(at::mul(qk[i], normed[i]), {0, 1, 2});
          if (in[QK_BIASES + i].defined()) found[QK_BIASES + i] = at::sum(qk[i], {0, 1, 2});
        }
        qk = at::mul(qk, at::stack({in[QK_WEIGHTS], in[QK_WEIGHTS + 1]}).view({2, 1, 1, 1, -1}));
      }
      qk = std::get<0>(layer_norm_backward(qk, input, moments, {}, {}));
    }
    qk = qk.to(kind).reshape({2, -1, width});
    sides[0] = qk[0], sides[1] = qk[1], sides[2] = of(2).reshape({-1, width});
    if (wants(BIASES) || wants(BIASES + 1) || wants(BIASES + 2)) {
      auto both = at::sum(qk, 1, /*keepdim=*/false, at::kFloat);
      found[BIASES] = both[0], found[BIASES + 1] = both[1];
      found[BIASES + 2] = at::sum(sides[2], 0, /*keepdim=*/false, at::kFloat);
    }
  }
};

static std::vector<at::Tensor> qkv(const std::vector<at::Tensor> &in, const at::Tensor &angles, int64_t heads, double eps,
                                   bool qk_norm, double qk_eps, at::ScalarType kind) {
  using Node = QkvNode;
  return run<Node>(in, [&](Node &node) -> std::vector<at::Tensor> {
    const auto &x = in[Node::X];
    auto batch = x.size(0), tokens = x.size(1), width = x.size(2);
    node.rows.eps = eps, node.head = width / heads;
    auto h = node.rows.forward(x, in[Node::NORM_WEIGHT], in[Node::NORM_BIAS], kind);
    auto products = parameters({in.begin() + Node::WEIGHTS, in.begin() + Node::QK_WEIGHTS}, kind);
    node.weights = {products.begin(), products.begin() + 3};
    node.has_norm = qk_norm, node.qk_eps = qk_eps;
    if (angles.defined()) node.rotation = Rotation::of(angles, tokens);
    if (node.has_kernels(x)) {
      std::vector<at::Tensor> outputs;
      for (int i = 0; i < 3; i++) {
        auto side = product(h, products[i], products[3 + i]).view({batch, tokens, heads, width / heads});
        if (i < 2 && (qk_norm || node.rotation)) {
          Moments moments;
          auto part = node.part(in, i);
          auto before = std::exchange(side, cpu::qk(part, side, moments));
          if (qk_norm) node.around_norm.push_back(part.from_output() ? side : before), node.qk_moments.push_back(moments);
        }
        outputs.push_back(side.transpose(1, 2));
      }
      return outputs;
    }
    auto qk = at::empty({2, batch, tokens, heads, width / heads}, h.options());
    for (int i = 0; i < 2; i++) product(h, products[i], products[3 + i], qk[i].view({-1, width}));
    // In memory of its own, which outlives that of q and k before their norm and rotation.
    auto v = product(h, products[2], products[5]).view({batch, tokens, heads, width / heads});
    if (qk_norm) {
      node.around_norm = {qk};
      node.qk_moments.emplace_back();
      std::tie(qk, node.qk_moments[0]) = layer_norm(qk.to(at::kFloat), {}, {}, qk_eps);
      if (in[Node::QK_WEIGHTS].defined()) {
        auto pair = [&](size_t first) { return at::stack({in[first], in[first + 1]}).view({2, 1, 1, 1, -1}); };
        qk = at::mul(qk, pair(Node::QK_WEIGHTS));
        if (in[Node::QK_BIASES].defined()) qk.add_(pair(Node::QK_BIASES));
      }
    }
    if (node.rotation) qk = node.rotation->turn(qk, /*back=*/false);
    qk = qk.to(kind);
    return {qk[0].transpose(1, 2), qk[1].transpose(1, 2), v.transpose(1, 2)};
  });
}

} // namespace fused

extern "C" {

// `inputs`: x [B, N, D], the norm's weight and bias, three weights, three biases, weights and biases of the QK-norm; null
// where there is none. Gives q, k, v [B, H, N, d].
Fault *nepa_fused_qkv(const Handle *inputs, Handle angles, int64_t heads, double eps, bool qk_norm, double qk_eps,
                      bool bfloat16, Handle *outputs) {
  return caught([&] {
    std::vector<at::Tensor> in;
    for (int i = 0; i < fused::QkvNode::INPUTS; i++) in.push_back(fused::tensor_or_none(inputs[i]));
    auto found = fused::qkv(in, fused::tensor_or_none(angles), heads, eps, qk_norm, qk_eps,
                            bfloat16 ? at::kBFloat16 : at::kFloat);
    for (size_t i = 0; i < found.size(); i++) outputs[i] = new at::Tensor(found[i]);
  });
}
}
