// Stands in for Gloo's own headers, which libtorch does not ship: ProcessGroupGloo.hpp includes them. The names are
// enough for it, and to catch what Gloo throws by type. Nothing here is ever constructed; Gloo itself lives in
// libtorch_cpu.
#pragma once

#include <exception>
#include <stdexcept>

namespace gloo {
// Of a connection that broke or came too late, too: IoException.
struct Exception : std::runtime_error {
  using std::runtime_error::runtime_error;
};
class EnforceNotMet : public std::exception {};
} // namespace gloo
