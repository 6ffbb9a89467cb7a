// Updates of many tensors in one pass over their memory, by kernels for the CPU.
#pragma once

#include "cpu.h"

#include <algorithm>
#include <vector>

namespace update {

// Whether all lists are of dense float32 tensors on the CPU in one order of elements.
inline bool fits(const std::vector<std::vector<at::Tensor>> &lists) {
  for (size_t i = 0; i < lists[0].size(); i++)
    for (const auto &list : lists) {
      const auto &t = list[i];
      if (!has_cpu_kernels(t) || t.scalar_type() != at::kFloat || !t.is_non_overlapping_and_dense() ||
          t.strides() != lists[0][i].strides())
        return false;
    }
  return true;
}

// Calls f(tensor, first element, elements) for pieces of all tensors, many at a time.
template <class F> void each_piece(const std::vector<at::Tensor> &tensors, F f) {
  constexpr int64_t PIECE = 16384;
  std::vector<int64_t> ends; // of the tensors, in pieces
  int64_t pieces = 0;
  for (const auto &t : tensors) ends.push_back(pieces += (t.numel() + PIECE - 1) / PIECE);
  parallel_each(pieces, [&](int64_t, int64_t piece) {
    auto i = std::upper_bound(ends.begin(), ends.end(), piece) - ends.begin();
    auto first = (piece - (i ? ends[i - 1] : 0)) * PIECE;
    f(i, first, std::min(PIECE, tensors[i].numel() - first));
  });
}

inline float *numbers(const at::Tensor &t, int64_t first) { return static_cast<float *>(t.data_ptr()) + first; }

// Whether found_inf, which may be null, says that nothing is to change.
inline bool is_refused(const at::Tensor *found_inf) { return found_inf && *static_cast<float *>(found_inf->data_ptr()) == 1; }

} // namespace update
