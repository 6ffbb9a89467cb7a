// libtorch's operators by their names: those that take numbers which tch does not pass on. They record for backward.

#include "shim.h"

#include <ATen/ScalarOps.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <utility>

namespace {
// What an operator takes (operators.rs).
struct Argument {
  enum Kind : int { TENSOR = 0, INT = 1, FLOAT = 2, BOOL = 3, TEXT = 4 } kind;
  Handle tensor;
  int64_t whole; // also of a bool
  double number;
  const char *text;

  c10::IValue value() const {
    switch (kind) {
      case TENSOR: return *tensor;
      case INT: return whole;
      case FLOAT: return number;
      case BOOL: return whole != 0;
      case TEXT: return std::string(text);
    }
    TORCH_CHECK(false, "an argument of the unknown kind ", static_cast<int>(kind));
  }
};
} // namespace

extern "C" {

// Calls an operator with all of its arguments, those with defaults too. A number may stand for a tensor: like Python's it
// is "wrapped", so that it keeps its precision and does not widen the dtype. *output is a new handle.
Fault *nepa_call_operator(const char *name, const char *overload, const Argument *arguments, size_t n,
                          Handle *output) {
  return caught([&] {
    auto called = c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
    const auto &parameters = called.schema().arguments();
    TORCH_CHECK(n == parameters.size(), name, " takes ", parameters.size(), " arguments, found ", n);
    torch::jit::Stack stack;
    for (size_t i = 0; i < n; ++i) {
      auto value = arguments[i].value();
      if (value.isScalar() && parameters[i].type()->kind() == c10::TypeKind::TensorType)
        value = at::native::wrapped_scalar_tensor(value.toScalar());
      stack.push_back(std::move(value));
    }
    called.callBoxed(&stack);
    *output = new at::Tensor(stack.at(0).toTensor());
  });
}
}
