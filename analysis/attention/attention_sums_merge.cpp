#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "analysis/attention/attention_sums.h"
#include "analysis/numbers/fixed_point.h"

namespace moetap::analysis {
namespace {

void check_on_host(const char* function, const AttentionSums& sums) {
  TORCH_CHECK(sums.words.is_cpu(), function, ": sums must be on the host, got ", sums.words.device());
}

void normalize_limbs(int64_t* high, int64_t* low, int64_t count) {
  bool fits = true;
  for (int64_t i = 0; i < count; ++i) {
    FixedPoint sum{high[i], low[i]};
    fits &= moetap::analysis::normalize(sum);
    high[i] = sum.hi;
    low[i] = sum.lo;
  }
  TORCH_CHECK(fits, "attention sums: a sum is beyond what 64-bit limbs hold (5.7e17)");
}

void normalize_words(const AttentionSums& sums, int64_t* words) {
  const AttentionSumsLayout layout = sums.layout();
  for (int64_t row = 0; row < layout.num_rows; ++row) {
    int64_t* of_row = words + row * layout.row_words();
    normalize_limbs(of_row + layout.row_high(0), of_row + layout.row_low(0), layout.row_sums());
  }
  if (sums.has_shared) normalize_limbs(words + layout.high(0), words + layout.low(0), layout.num_shared_sums());
}

void add_words(int64_t* to, const int64_t* from, int64_t count, const char* function) {
  bool overflow = false;
  for (int64_t i = 0; i < count; ++i) overflow |= __builtin_add_overflow(to[i], from[i], &to[i]);
  TORCH_CHECK(!overflow, function, ": a count or sum is beyond 64 bits");
}

}  // namespace

void normalize(AttentionSums& sums) {
  if (!sums.defined()) return;
  check_on_host("normalize", sums);
  normalize_words(sums, sums.words.mutable_data_ptr<int64_t>());
  sums.pending_terms = 0;
}

void merge(AttentionSums& into, const AttentionSums& from) {
  if (!from.defined()) return;
  check_on_host("merge", from);
  if (!into.defined()) {
    AttentionSums copy = from;
    copy.words = from.words.clone();
    normalize(copy);
    into = copy;
    return;
  }
  check_on_host("merge", into);
  TORCH_CHECK(into.num_heads == from.num_heads && into.num_regions == from.num_regions &&
                  into.num_experts == from.num_experts && into.self == from.self,
              "merge: sums of ", into.num_heads, " heads, ", into.num_regions, " regions, ", into.num_experts,
              " experts and of ", from.num_heads, " heads, ", from.num_regions, " regions, ", from.num_experts,
              " experts are of different attention layers");
  TORCH_CHECK(into.num_rows == from.num_rows, "merge: sums of ", into.num_rows, " and of ", from.num_rows,
              " rows; sum_rows gives one row of each");
  TORCH_CHECK(into.has_shared == from.has_shared, "merge: only one of the sums holds what is shared by rows");

  const AttentionSumsLayout layout = into.layout();
  AttentionSums result = into;
  result.words = into.words.clone();
  int64_t* to = result.words.mutable_data_ptr<int64_t>();
  const int64_t* words = from.words.const_data_ptr<int64_t>();
  add_words(to, words, into.has_shared ? layout.max_score(0) : layout.shared_begin(), "merge");
  for (int64_t head = 0; into.has_shared && head < layout.num_heads; ++head) {
    int64_t& score = to[layout.max_score(head)];
    score = std::max(score, words[layout.max_score(head)]);
  }
  normalize(result);
  into = result;
}

AttentionSums sum_rows(const AttentionSums& sums) {
  if (!sums.defined()) return sums;
  check_on_host("sum_rows", sums);
  AttentionSums result = sums;
  result.num_rows = 1;
  result.pending_terms = 0;
  const int64_t row_words = sums.layout().row_words();
  result.words = at::zeros({sums.words.numel() - (sums.num_rows - 1) * row_words}, sums.words.options());
  const int64_t* from = sums.words.const_data_ptr<int64_t>();
  int64_t* to = result.words.mutable_data_ptr<int64_t>();
  std::copy_n(from + sums.num_rows * row_words, sums.words.numel() - sums.num_rows * row_words, to + row_words);
  for (int64_t row = 0; row < sums.num_rows; ++row) {
    add_words(to, from + row * row_words, row_words, "sum_rows");
    normalize_words(result, to);
  }
  return result;
}

AttentionSums select_row(const AttentionSums& sums, int64_t row) {
  TORCH_CHECK(row >= 0 && row < sums.num_rows, "select_row: row must be in [0, ", sums.num_rows, "), got ", row);
  check_on_host("select_row", sums);
  AttentionSums result = sums;
  result.num_rows = 1;
  result.has_shared = false;
  result.words = sums.words.narrow(0, row * sums.layout().row_words(), sums.layout().row_words()).clone();
  normalize(result);
  return result;
}

}  // namespace moetap::analysis
