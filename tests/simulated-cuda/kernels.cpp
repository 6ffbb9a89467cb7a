// The kernel of nearly every operator: checks that all tensors are on one device, as the real wrappers do, and runs
// what is registered for the CPU on the shadow.

#include "simulated.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DeviceGuard.h>

#include <unordered_map>
#include <unordered_set>

namespace simulated {

// libtorch's: the wrapper checks that all tensors are on one device. The others leave that to TensorIterator, which
// takes a CPU tensor without dimensions for a number.
static const std::unordered_map<std::string, bool> OPERATORS = {
#include "operators.inc"
};

// The host waits for these: the size of what they return, or their error, depends on values.
static const std::unordered_set<std::string> WAITING = {
    "equal",
    "nonzero",
    "nonzero.out",
    "masked_select",
    "masked_select.out",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "unique_dim_consecutive",
    "repeat_interleave.Tensor",
    "bincount",
    "histc",
    "multinomial",
    "embedding_renorm_",
    "linalg_cholesky_ex",
    "linalg_inv_ex.inverse",
    "linalg_lu_factor_ex",
    "linalg_eig",
    "linalg_eig.out",
    "_linalg_eigh",
    "_linalg_eigh.eigenvalues",
    "_linalg_solve_ex",
    "_linalg_svd",
    "_linalg_svd.U",
};

// Their argument `indices` may be on the CPU.
static const std::unordered_set<std::string> INDEXING = {
    "index.Tensor", "index.Tensor_out", "_index_put_impl_", "index_put_", "_unsafe_index.Tensor",
};

static bool begins(const std::string &text, const char *with) { return text.rfind(with, 0) == 0; }

// As in the table: without the namespace.
static std::string name_of(const c10::OperatorHandle &op) {
  const auto &name = op.operator_name();
  auto text = name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
  return begins(text, "aten::") ? text.substr(6) : text;
}

// How many launches libtorch's multi_tensor_apply makes of lists of tensors: a launch holds so many tensors, and so
// many chunks of 65,536 elements.
static size_t launches_of_lists(const std::vector<Tensor> &list, size_t lists) {
  static const size_t MOST_TENSORS[] = {770, 448, 336, 252, 210}, MOST_CHUNKS = 2240;
  size_t most = MOST_TENSORS[std::min<size_t>(lists, 5) - 1], chunks = 0, tensors = 0, launches = 0;
  for (const auto &t : list) {
    if (t.numel() == 0) continue;
    tensors++;
    size_t own = (t.numel() + 65535) / 65536;
    for (size_t i = 1; i <= own; i++) {
      chunks++;
      bool last = i == own;
      if ((tensors == most && last) || chunks == MOST_CHUNKS) {
        launches++;
        chunks = 0;
        tensors = last ? 0 : 1;
      }
    }
  }
  return launches + (chunks != 0);
}

// One call of an operator, with its arguments on the stack.
class Call {
public:
  Call(const c10::OperatorHandle &op, Stack *stack)
      : op(op), schema(op.schema()), name(name_of(op)), stack(stack), begin(stack->size() - schema.arguments().size()),
        of_lists(begins(name, "_foreach_") || begins(name, "_fused_")) {}

  void run() {
    look();
    check_host_tensors();
    c10::DeviceGuard guard(Device(DeviceType::CUDA, device));
    Cost cost{kernels(), bytes_of_arguments(), masked || WAITING.count(name)};
    // What is small is computed all the same: a script may look at it.
    bool large = list_count || bytes > (64 << 10);
    if (!(settings().dry && large && without_computing(op, name, stack, device))) compute();
    size_t first = stack->size() - schema.returns().size();
    for (size_t i = 0; i < schema.returns().size(); i++)
      if (!schema.returns()[i].alias_info()) cost.bytes += size_of((*stack)[first + i]);
    record(Event::LAUNCH, name, cost, seen);
  }

private:
  IValue &argument(size_t i) { return (*stack)[begin + i]; }

  static size_t size_of(const IValue &value) {
    size_t bytes = 0;
    for (const auto &t : tensors_of(value)) bytes += t.defined() ? t.numel() * t.itemsize() : 0;
    return bytes;
  }

  // Finds the device, on which all tensors that are on one must be.
  void look() {
    std::optional<Device> found;
    for (size_t i = 0; i < schema.arguments().size(); i++) {
      const auto &value = argument(i);
      if (value.isTensorList() && !list_count++) first_list = value.toTensorVector();
      if (value.isDevice() && value.toDevice().is_cuda()) found = value.toDevice();
      for (const auto &t : tensors_of(value)) {
        if (!t.defined()) continue;
        seen.push_back(t);
        bytes += t.numel() * t.itemsize();
        if (!t.is_cuda()) continue;
        TORCH_CHECK(!found || *found == t.device(),
                    "Expected all tensors to be on the same device, but found at least two devices, ", *found, " and ",
                    t.device(), "! (when checking argument in method wrapper_CUDA_", name, ")");
        found = t.device();
      }
    }
    device = found && found->has_index() ? found->index() : current_device;
  }

  // Refuses tensors of the CPU where the real kernel does.
  void check_host_tensors() {
    bool numbers = !OPERATORS.at(name), indexing = INDEXING.count(name);
    size_t uploaded = 0;
    for (size_t i = 0; i < schema.arguments().size(); i++) {
      bool indices = indexing && schema.arguments()[i].name() == "indices";
      for (const auto &t : tensors_of(argument(i))) {
        if (!t.defined()) continue;
        masked |= indices && (t.scalar_type() == at::kBool || t.scalar_type() == at::kByte);
        if (t.is_cuda()) continue;
        if (indices) {
          uploaded += t.numel() * t.itemsize();
        } else if (numbers && t.dim() == 0) {
          if (!t.unsafeGetTensorImpl()->is_wrapped_number()) note("a CPU tensor as the number of " + name);
        } else if (of_lists) {
          note("a CPU tensor in a list of " + name); // the real one then launches a kernel for each tensor
        } else {
          TORCH_CHECK(false, "Expected all tensors to be on the same device, but got ", schema.arguments()[i].name(),
                      " is on ", t.device(), ", different from other tensors on cuda:", device,
                      " (when checking argument in method wrapper_CUDA_", name, ")");
        }
      }
    }
    if (uploaded) record(Event::TO_DEVICE, "indices of " + name, {0, uploaded, true});
  }

  size_t kernels() const {
    if (begins(name, "_fused_adam")) return launches_of_lists(first_list, 4);
    if (begins(name, "_foreach_norm")) return launches_of_lists(first_list, 1) + 1; // one more joins the chunks
    bool in_place = name.back() == '_' || name.find("_.") != std::string::npos;
    if (begins(name, "_foreach_") && list_count) return launches_of_lists(first_list, list_count + !in_place);
    return name == "native_layer_norm_backward" || name == "convolution_backward" ? 2 : 1;
  }

  // What goes through the device's memory; what is changed in place is read and written.
  size_t bytes_of_arguments() {
    size_t all = 0;
    for (const auto &t : seen) all += t.is_cuda() ? t.numel() * t.itemsize() : 0;
    for (size_t i = 0; i < schema.arguments().size(); i++) {
      const auto *alias = schema.arguments()[i].alias_info();
      if (alias && alias->isWrite()) all += size_of(argument(i));
    }
    return all;
  }

  void compute() {
    Bridge bridge(device);
    std::vector<IValue> given;
    for (size_t i = 0; i < schema.arguments().size(); i++) {
      auto &value = argument(i);
      given.push_back(value);
      value = mapped(value, [&](const Tensor &t) { return bridge.to_host(t); });
      if (value.isDevice()) value = Device(DeviceType::CPU);
      if (value.isGenerator()) value = IValue(); // the CPU's own
    }
    {
      InKernel kernel;
      at::AutoDispatchBelowADInplaceOrView below;
      op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
    }
    bridge.settle();
    for (size_t i = 0; i < schema.returns().size(); i++) {
      auto &value = (*stack)[stack->size() - schema.returns().size() + i];
      const auto *alias = schema.returns()[i].alias_info();
      if (!alias || !alias->isWrite()) {
        value = mapped(value, [&](const Tensor &t) { return bridge.to_device(t); });
        continue;
      }
      for (size_t k = 0; k < given.size(); k++) {
        const auto *source = schema.arguments()[k].alias_info();
        if (source && *source == *alias) value = given[k];
      }
    }
  }

  const c10::OperatorHandle &op;
  const c10::FunctionSchema &schema;
  const std::string name;
  Stack *stack;
  const size_t begin;
  const bool of_lists;
  int device = 0;
  std::vector<Tensor> seen, first_list;
  size_t list_count = 0, bytes = 0;
  bool masked = false; // by a mask, whose true elements are counted first
};

static void on_the_shadow(const c10::OperatorHandle &op, DispatchKeySet, Stack *stack) { Call(op, stack).run(); }

// A view looks at sizes only; the CPU's function does right by tensors of any device.
static void as_it_is(const c10::OperatorHandle &op, DispatchKeySet, Stack *stack) {
  at::AutoDispatchBelowADInplaceOrView below;
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
}

static void not_simulated(const c10::OperatorHandle &op, DispatchKeySet, Stack *) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op.operator_name(), " is not simulated: the CPU has no such kernel");
}

static bool is_view(const c10::FunctionSchema &schema) {
  for (const auto &result : schema.returns())
    if (result.alias_info() && !result.alias_info()->isWrite()) return true;
  return false;
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  Own own{"_fused_sdp_choice"}; // asks a function that libraries.cpp registers
  register_tensors(library, own);
  register_libraries(library, own);
  std::unordered_set<std::string> done(own.begin(), own.end());

  size_t computed = 0, views = 0, missing = 0;
  for (const auto &[name, checks] : OPERATORS) {
    if (done.count(name)) continue;
    auto dot = name.find('.');
    auto overload = dot == std::string::npos ? "" : name.substr(dot + 1);
    auto op = c10::Dispatcher::singleton().findSchema({"aten::" + name.substr(0, dot), overload});
    TORCH_CHECK(op, "the table of operators is not of this libtorch, which has no ", name);
    auto with = [&](auto function, size_t &count) {
      count++;
      library.impl(name.c_str(), std::move(function));
    };
    if (!op->hasComputedKernelForDispatchKey(DispatchKey::CPU))
      with(torch::CppFunction::makeFromBoxedFunction<&not_simulated>(), missing);
    else if (is_view(op->schema())) with(torch::CppFunction::makeFromBoxedFunction<&as_it_is>(), views);
    else with(torch::CppFunction::makeFromBoxedFunction<&on_the_shadow>(), computed);
  }
  registered(computed, views, missing);
}

} // namespace simulated
