#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "analysis/numbers/fixed_point.h"
#include "analysis/routers/host_call.h"
#include "analysis/routers/router_sums.h"

namespace moetap::analysis {
namespace {

void check_on_host(const char* function, const RouterSums& sums) {
  TORCH_CHECK(sums.words.is_cpu(), function, ": sums must be on the host, got ", sums.words.device());
}

/// Normalizes `count` sums, whose limbs are high[i] and low[i]. As `normalize` of fixed_point.h, without a branch.
void normalize_limbs(int64_t* high, int64_t* low, int64_t count) {
  constexpr uint64_t kSign = uint64_t{1} << 63;
  uint64_t overflows = 0;
  for (int64_t i = 0; i < count; ++i) {
    // low >> kLimbBits, rounded down; vectors of 64-bit words have no arithmetic shift.
    const uint64_t carry = ((static_cast<uint64_t>(low[i]) ^ kSign) >> kLimbBits) - (kSign >> kLimbBits);
    const uint64_t before = static_cast<uint64_t>(high[i]), after = before + carry;
    overflows |= (before ^ after) & (carry ^ after);
    high[i] = static_cast<int64_t>(after);
    low[i] &= kLimbMask;
  }
  TORCH_CHECK((overflows & kSign) == 0, "router sums: a sum is beyond what 64-bit limbs hold (5.7e17)");
}

void normalize_row(const RouterSumsLayout& layout, int64_t* row) {
  for (int64_t which = 0; which < kNumScalarSums; ++which) {
    int64_t* sum = row + RouterSumsLayout::scalar_sum(static_cast<RowScalarSum>(which));
    normalize_limbs(sum + kHighLimb, sum + kLowLimb, 1);
  }
  normalize_limbs(row + layout.vector(kProbabilityHigh), row + layout.vector(kProbabilityLow), layout.num_experts);
  normalize_limbs(row + layout.vector(kWeightHigh), row + layout.vector(kWeightLow), layout.num_experts);
}

/// to[i] += from[i]; false if an addition overflows.
bool add_checked(int64_t* to, const int64_t* from, int64_t count) {
  bool overflow = false;
  for (int64_t i = 0; i < count; ++i) overflow |= __builtin_add_overflow(to[i], from[i], &to[i]);
  return !overflow;
}

}  // namespace

void normalize_words(const RouterSumsLayout& layout, int64_t* words) {
  for (int64_t row = 0; row < layout.num_rows; ++row) normalize_row(layout, words + row * layout.row_words());
}

void normalize(RouterSums& sums) {
  if (!sums.defined()) return;
  check_on_host("normalize", sums);
  normalize_words(sums.layout(), sums.words.mutable_data_ptr<int64_t>());
  sums.pending_terms = 0;
}

void merge(RouterSums& into, const RouterSums& from) {
  if (!from.defined()) return;
  check_on_host("merge", from);
  if (!into.defined()) {
    RouterSums copy = from;
    copy.words = from.words.clone();
    normalize(copy);
    into = copy;
    return;
  }
  check_on_host("merge", into);
  TORCH_CHECK(into.num_experts == from.num_experts && into.top_k == from.top_k, "merge: sums of ", into.num_experts,
              " experts, top-", into.top_k, " and of ", from.num_experts, " experts, top-", from.top_k,
              " are of different routers");
  TORCH_CHECK(into.num_rows == from.num_rows, "merge: sums of ", into.num_rows, " and of ", from.num_rows,
              " rows; sum_rows gives one row of each");
  TORCH_CHECK(into.has_pairs == from.has_pairs, "merge: only one of the sums holds pairs of experts");

  RouterSums result = into;
  result.words = into.words.clone();
  TORCH_CHECK(
      add_checked(result.words.mutable_data_ptr<int64_t>(), from.words.const_data_ptr<int64_t>(), result.words.numel()),
      "merge: a count or sum is beyond 64 bits");
  normalize(result);
  into = result;
}

RouterSums sum_rows(const RouterSums& sums) {
  if (!sums.defined()) return sums;
  check_on_host("sum_rows", sums);
  const int64_t row_words = sums.layout().row_words();
  RouterSums result = sums;
  result.num_rows = 1;
  result.pending_terms = 0;
  result.words = at::zeros({sums.words.numel() - (sums.num_rows - 1) * row_words}, sums.words.options());
  const int64_t* from = sums.words.const_data_ptr<int64_t>();
  int64_t* to = result.words.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < sums.num_rows; ++row) {
    TORCH_CHECK(add_checked(to, from + row * row_words, row_words), "sum_rows: a count or sum is beyond 64 bits");
    normalize_row(result.layout(), to);
  }
  if (sums.has_pairs) {
    const int64_t pair_words = sums.layout().pair_words();
    std::copy_n(from + sums.layout().pairs_begin(), pair_words, to + result.layout().pairs_begin());
  }
  return result;
}

RouterSums select_row(const RouterSums& sums, int64_t row) {
  TORCH_CHECK(row >= 0 && row < sums.num_rows, "select_row: row must be in [0, ", sums.num_rows, "), got ", row);
  check_on_host("select_row", sums);
  const int64_t row_words = sums.layout().row_words();
  RouterSums result = sums;
  result.num_rows = 1;
  result.has_pairs = false;
  result.words = sums.words.narrow(0, row * row_words, row_words).clone();
  normalize(result);
  return result;
}

}  // namespace moetap::analysis
