// Parameters in bfloat16, which products take, each made once and not at every use.

#include "fused.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>

#include <map>
#include <mutex>

namespace fused {

namespace {

// A tensor as it was, without keeping it alive. Its address is nobody else's as long as this is there.
struct Seen {
  c10::weak_intrusive_ptr<c10::TensorImpl> tensor;
  uint32_t version;

  explicit Seen(const at::Tensor &t) : tensor(t.getIntrusivePtr()), version(t._version()) {}
  bool is(const at::Tensor &t) const { return !tensor.expired() && version == t._version(); }
  bool is_old() const {
    auto now = tensor.lock();
    return !now || version != now->version_counter().current_version();
  }
};

struct Made {
  Seen parameter;
  std::optional<Seen> scale;
  at::Tensor value;
};

// By the parameter and its scale, if it has one. Backward may run in a thread of its own.
std::mutex lock;
// Never destroyed: when the program ends, a GPU may be gone before this.
auto &all = *new std::map<std::pair<const c10::TensorImpl *, const c10::TensorImpl *>, Made>();

bool can_be_kept(const at::Tensor &t) { return !t.defined() || t.is_leaf() && !t.is_inference(); }

at::Tensor known(const at::Tensor &parameter, const at::Tensor &scale) {
  std::lock_guard<std::mutex> held(lock);
  auto found = all.find({parameter.unsafeGetTensorImpl(), scale.defined() ? scale.unsafeGetTensorImpl() : nullptr});
  if (found == all.end()) return {};
  auto &made = found->second;
  return made.parameter.is(parameter) && (!made.scale || made.scale->is(scale)) ? made.value : at::Tensor();
}

void keep(const at::Tensor &parameter, const at::Tensor &scale, const at::Tensor &value) {
  if (!can_be_kept(parameter) || !can_be_kept(scale)) return;
  std::lock_guard<std::mutex> held(lock);
  auto key = std::pair(parameter.unsafeGetTensorImpl(), scale.defined() ? scale.unsafeGetTensorImpl() : nullptr);
  all.insert_or_assign(key, Made{Seen(parameter), scale.defined() ? std::optional(Seen(scale)) : std::nullopt, value});
}

} // namespace

void forget_old_parameters() {
  std::lock_guard<std::mutex> held(lock);
  for (auto i = all.begin(); i != all.end();) {
    auto &made = i->second;
    i = made.parameter.is_old() || made.scale && made.scale->is_old() ? all.erase(i) : std::next(i);
  }
}

std::vector<at::Tensor> parameters(const std::vector<at::Tensor> &tensors, at::ScalarType kind) {
  auto result = tensors;
  std::vector<at::Tensor> missing;
  std::vector<size_t> places;
  for (size_t i = 0; i < result.size(); i++) {
    if (!result[i].defined() || result[i].scalar_type() == kind) continue;
    auto value = known(tensors[i], {});
    if (value.defined()) {
      result[i] = value;
    } else {
      missing.push_back(tensors[i]);
      places.push_back(i);
    }
  }
  auto made = cast(missing, kind);
  for (size_t i = 0; i < made.size(); i++) {
    keep(missing[i], {}, made[i]);
    result[places[i]] = made[i];
  }
  return result;
}

at::Tensor scaled_parameter(const at::Tensor &tensor, const at::Tensor &scale, const at::Tensor &factors,
                            at::ScalarType kind) {
  auto narrow = kind != tensor.scalar_type();
  auto value = narrow ? known(tensor, scale) : at::Tensor();
  if (value.defined()) return value;
  value = at::empty_like(tensor, tensor.options().dtype(kind));
  at::mul_out(value, tensor, factors);
  if (narrow) keep(tensor, scale, value);
  return value;
}

} // namespace fused
