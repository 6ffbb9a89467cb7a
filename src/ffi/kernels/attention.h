// Attention of a head whose tokens fit into a core's cache, and its backward, from q, k and v alone: the probabilities are
// computed again. Of a causal one, what lies above the diagonal is not computed.
//
//   P = softmax(scale q kᵀ),  out = P v
//   dv = Pᵀ g,  dP = g vᵀ,  dS = P ⊙ (dP - Σ P ⊙ dP),  dq = scale dS k,  dk = scale dSᵀ q
#pragma once

#include "simd.h"

#include <utility>

namespace kernels {
namespace NEPA_ISA {

// c[i][j] (+)= Σ_k a[i][k] b[k][j] for R rows of c and all j < n, a multiple of 16; k from `begin` to `end`.
template <int R>
inline void product_rows(const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_row, float *c, int64_t c_row,
                         int64_t n, int64_t begin, int64_t end) {
  int64_t j = 0;
  for (; j + 2 * LANES <= n; j += 2 * LANES) {
    floats sum[R][2] = {};
    for (int64_t k = begin; k < end; k++) {
      floats left = load(b + k * b_row + j), right = load(b + k * b_row + j + LANES);
      for (int r = 0; r < R; r++) {
        float x = a[r * a_row + k * a_k];
        sum[r][0] += x * left;
        sum[r][1] += x * right;
      }
    }
    for (int r = 0; r < R; r++) {
      store(c + r * c_row + j, sum[r][0]);
      store(c + r * c_row + j + LANES, sum[r][1]);
    }
  }
  if (j < n) {
    floats sum[R] = {};
    for (int64_t k = begin; k < end; k++) {
      floats left = load(b + k * b_row + j);
      for (int r = 0; r < R; r++) sum[r] += a[r * a_row + k * a_k] * left;
    }
    for (int r = 0; r < R; r++) store(c + r * c_row + j, sum[r]);
  }
}

// All rows, six at a time. `columns` and `terms` give, for rows from i to last, how many columns are wanted and which k
// count.
template <class Columns, class Terms>
void product(int64_t rows, const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_row, float *c,
             int64_t c_row, Columns columns, Terms terms) {
  int64_t i = 0;
  for (; i + 6 <= rows; i += 6) {
    auto [begin, end] = terms(i, i + 5);
    product_rows<6>(a + i * a_row, a_row, a_k, b, b_row, c + i * c_row, c_row, columns(i + 5), begin, end);
  }
  for (; i < rows; i++) {
    auto [begin, end] = terms(i, i);
    product_rows<1>(a + i * a_row, a_row, a_k, b, b_row, c + i * c_row, c_row, columns(i), begin, end);
  }
}

// A head in memory (attention_floats): rows of numbers [tokens, width], columns [head, across], and two squares.
struct Memory {
  int64_t tokens, head, width, across;
  float *q, *k, *v, *g, *columns, *p, *dp;

  Memory(const Attention &a, float *at)
      : tokens(a.tokens), head(a.head), width(padded(a.head)), across(padded(a.tokens)) {
    for (float **part : {&q, &k, &v, &g}) *part = at, at += tokens * width;
    columns = at, at += head * across;
    p = at, at += tokens * across;
    dp = at;
  }

  template <class T> void rows(const T *from, int64_t token, float *to) const {
    for (int64_t n = 0; n < tokens; n++) {
#pragma omp simd
      for (int64_t i = 0; i < head; i++) to[n * width + i] = number(from[n * token + i]);
      for (int64_t i = head; i < width; i++) to[n * width + i] = 0;
    }
  }
  void transposed(const float *rows) const {
    for (int64_t i = 0; i < head; i++) {
      for (int64_t n = 0; n < tokens; n++) columns[i * across + n] = rows[n * width + i];
      for (int64_t n = tokens; n < across; n++) columns[i * across + n] = 0;
    }
  }
  template <class T> void put_rows(const float *from, float scale, T *to, int64_t token) const {
    for (int64_t n = 0; n < tokens; n++)
#pragma omp simd
      for (int64_t i = 0; i < head; i++) put(to[n * token + i], scale * from[n * width + i]);
  }
};

// How many tokens row i attends to, and which rows attend to token j.
struct Mask {
  int64_t tokens;
  bool causal;

  int64_t seen(int64_t row) const { return causal ? row + 1 : tokens; }
  int64_t first(int64_t token) const { return causal ? token : 0; }
};

// P, with zeros where a row does not attend.
inline void probabilities(const Attention &a, const Memory &m) {
  Mask mask{a.tokens, a.causal};
  m.transposed(m.k);
  product(
      a.tokens, m.q, m.width, 1, m.columns, m.across, m.p, m.across, [&](int64_t i) { return padded(mask.seen(i)); },
      [&](int64_t, int64_t) { return std::pair<int64_t, int64_t>(0, a.head); });
  for (int64_t i = 0; i < a.tokens; i++) {
    float *row = m.p + i * m.across;
    int64_t seen = mask.seen(i);
    for (int64_t j = seen; j < m.across; j++) row[j] = -INFINITY;
    floats most = load(row);
    int64_t end = padded(seen);
    for (int64_t j = LANES; j < end; j += LANES) {
      floats x = load(row + j);
      most = x > most ? x : most;
    }
    float top = max_of(most);
    floats sums = {};
    for (int64_t j = 0; j < end; j += LANES) {
      floats x = load(row + j);
      floats power = exp((x - top) * a.scale);
      power = x == -INFINITY ? floats{} : power;
      store(row + j, power);
      sums += power;
    }
    for (int64_t j = end; j < m.across; j += LANES) store(row + j, floats{});
    float sum = sum_of(sums);
    for (int64_t j = 0; j < end; j += LANES) store(row + j, load(row + j) / sum);
  }
}

template <class T>
void attention(const Attention &a, const T *q, const T *k, const T *v, int64_t qk_token, int64_t v_token, T *out,
               int64_t out_token, float *memory) {
  Memory m(a, memory);
  Mask mask{a.tokens, a.causal};
  m.rows(q, qk_token, m.q);
  m.rows(k, qk_token, m.k);
  m.rows(v, v_token, m.v);
  probabilities(a, m);
  product(
      a.tokens, m.p, m.across, 1, m.v, m.width, m.g, m.width, [&](int64_t) { return m.width; },
      [&](int64_t, int64_t last) { return std::pair<int64_t, int64_t>(0, mask.seen(last)); });
  m.put_rows(m.g, 1, out, out_token);
}

template <class T>
void attention_backward(const Attention &a, const T *q, const T *k, const T *v, int64_t qk_token, int64_t v_token,
                        const T *grad, int64_t grad_token, T *dq, T *dk, T *dv, int64_t d_token, float *memory) {
  Memory m(a, memory);
  Mask mask{a.tokens, a.causal};
  auto every_width = [&](int64_t) { return m.width; };
  auto from_rows = [&](int64_t first, int64_t) { return std::pair<int64_t, int64_t>(mask.first(first), a.tokens); };
  m.rows(q, qk_token, m.q);
  m.rows(k, qk_token, m.k);
  m.rows(v, v_token, m.v);
  m.rows(grad, grad_token, m.g);
  probabilities(a, m);
  m.transposed(m.v);
  product(
      a.tokens, m.g, m.width, 1, m.columns, m.across, m.dp, m.across, [&](int64_t i) { return padded(mask.seen(i)); },
      [&](int64_t, int64_t) { return std::pair<int64_t, int64_t>(0, a.head); });
  // v is not needed any more: its place takes each result.
  product(a.tokens, m.p, 1, m.across, m.g, m.width, m.v, m.width, every_width, from_rows);
  m.put_rows(m.v, 1, dv, d_token);
  for (int64_t i = 0; i < a.tokens; i++) {
    float *p = m.p + i * m.across, *dp = m.dp + i * m.across;
    int64_t end = padded(mask.seen(i));
    floats sums = {};
    for (int64_t j = 0; j < end; j += LANES) sums += load(p + j) * load(dp + j);
    float sum = sum_of(sums);
    for (int64_t j = 0; j < end; j += LANES) store(dp + j, load(p + j) * (load(dp + j) - sum));
    for (int64_t j = end; j < m.across; j += LANES) store(dp + j, floats{});
  }
  product(
      a.tokens, m.dp, m.across, 1, m.k, m.width, m.v, m.width, every_width,
      [&](int64_t, int64_t last) { return std::pair<int64_t, int64_t>(0, mask.seen(last)); });
  m.put_rows(m.v, a.scale, dq, d_token);
  product(a.tokens, m.dp, 1, m.across, m.q, m.width, m.v, m.width, every_width, from_rows);
  m.put_rows(m.v, a.scale, dk, d_token);
}

} // namespace NEPA_ISA
} // namespace kernels
