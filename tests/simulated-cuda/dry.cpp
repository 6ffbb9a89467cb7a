// Dry mode: a kernel allocates what it would return and computes nothing, so that large models can be counted in
// seconds. Sizes come from the meta device, or from rules here where its functions are not exact or do not exist.

#include "simulated.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>

#include <unordered_map>

namespace simulated {

static Tensor like(const Tensor &t) { return at::empty_like(t, at::MemoryFormat::Contiguous); }

using Arguments = c10::ArrayRef<IValue>;
using Rule = std::vector<IValue> (*)(Arguments);

static std::vector<IValue> nothing(Arguments) { return {}; }

static std::vector<IValue> norms(Arguments a) {
  c10::List<Tensor> list;
  for (const auto &t : a[0].toTensorVector()) list.push_back(at::empty({}, t.options()));
  return {list};
}

static std::vector<IValue> layer_norm(Arguments a) {
  auto x = a[0].toTensor();
  auto kept = x.sizes().vec();
  size_t normalized = a[1].toDimVector().size();
  std::fill(kept.end() - normalized, kept.end(), 1);
  auto options = x.options().dtype(at::kFloat);
  return {like(x), at::empty(kept, options), at::empty(kept, options)};
}

static std::vector<IValue> layer_norm_backward(Arguments a) {
  auto mask = a[7].toBoolList();
  auto gradient = [&](size_t i, const IValue &of) {
    return mask[i] && of.isTensor() && of.toTensor().defined() ? like(of.toTensor()) : Tensor();
  };
  return {gradient(0, a[1]), gradient(1, a[5]), gradient(2, a[6])};
}

static std::vector<IValue> convolution_backward(Arguments a) {
  auto mask = a[10].toBoolList();
  auto x = a[1].toTensor(), weight = a[2].toTensor();
  return {mask[0] ? like(x) : Tensor(), mask[1] ? like(weight) : Tensor(),
          mask[2] ? at::empty({weight.size(0)}, weight.options()) : Tensor()};
}

static std::vector<IValue> index_select(Arguments a) {
  auto x = a[0].toTensor();
  auto size = x.sizes().vec();
  size[a[1].toInt()] = a[2].toTensor().numel();
  return {at::empty(size, x.options())};
}

// Mostly whether all is finite, which zeros are.
static std::vector<IValue> yes(Arguments a) { return {at::ones({}, a[0].toTensor().options().dtype(at::kBool))}; }

static const std::unordered_map<std::string, Rule> RULES = {
    {"all", yes},
    {"_fused_adamw_", nothing},
    {"_foreach_norm.Scalar", norms},
    {"native_layer_norm", layer_norm},
    {"native_layer_norm_backward", layer_norm_backward},
    {"convolution_backward", convolution_backward},
    {"index_select", index_select},
};

bool without_computing(const c10::OperatorHandle &op, const std::string &name, Stack *stack, int device) {
  const auto &arguments = op.schema().arguments(), &returns = op.schema().returns();
  const size_t begin = stack->size() - arguments.size();
  Arguments given(stack->data() + begin, arguments.size());
  auto answer = [&](std::vector<IValue> results) {
    stack->resize(begin);
    for (auto &result : results) stack->push_back(std::move(result));
    return true;
  };

  auto rule = RULES.find(name);
  if (rule != RULES.end()) return answer(rule->second(given));
  if (name.rfind("_foreach_", 0) == 0 && returns.empty()) return answer({});
  if (!op.hasComputedKernelForDispatchKey(DispatchKey::Meta)) {
    note("computed although dry: " + name);
    return false;
  }

  Bridge bridge(device, Bridge::SIZES_ONLY);
  Stack own;
  for (const auto &value : given) {
    own.push_back(mapped(value, [&](const Tensor &t) { return bridge.to_host(t); }));
    if (value.isDevice()) own.back() = Device(DeviceType::Meta);
  }
  try {
    at::AutoDispatchBelowADInplaceOrView below;
    op.redispatchBoxed(DispatchKeySet(DispatchKey::Meta), &own);
  } catch (const c10::NotImplementedError &) {
    note("computed although dry: " + name);
    return false;
  }
  bridge.settle();
  std::vector<IValue> results;
  for (size_t i = 0; i < returns.size(); i++) {
    const auto *alias = returns[i].alias_info();
    IValue result = own[i];
    if (!alias || !alias->isWrite()) result = mapped(result, [&](const Tensor &t) { return bridge.to_device(t); });
    else
      for (size_t k = 0; k < arguments.size(); k++)
        if (arguments[k].alias_info() && *arguments[k].alias_info() == *alias) result = given[k];
    results.push_back(result);
  }
  return answer(results);
}

} // namespace simulated
