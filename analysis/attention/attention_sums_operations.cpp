#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/round.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "analysis/attention/attention_sums.h"
#include "analysis/attention/attention_sums_paths.h"
#include "analysis/numbers/fixed_point.h"

// As Note [The path of operations] says: what does not count is added as 0, or to a place that is thrown away.
namespace moetap::analysis {
namespace {

struct Limbs {
  at::Tensor high, low;  // int64
};

/// As to_fixed_point; the values must be in range.
Limbs limbs(const at::Tensor& values) {
  const at::Tensor high = at::floor(values * kUnitsPerHigh);
  const at::Tensor low = at::round((values - high / kUnitsPerHigh) * kFixedPointScale);
  return Limbs{high.to(at::kLong), low.to(at::kLong)};
}

class OperationSums {
 public:
  OperationSums(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row)
      : layout_(sums.layout()), words_(sums.words), rows_(rows) {
    at::Tensor of_lines = row;
    if (row.size(0) != rows.num_lines()) {
      of_lines = row.unsqueeze(1).expand({rows.num_sequences, rows.num_queries}).reshape({rows.num_lines()});
    }
    has_row_ = (of_lines >= 0).bitwise_and(of_lines < layout_.num_rows);
    row_ = at::where(has_row_, of_lines, layout_.num_rows);
    counts_ = has_row_.bitwise_and(rows.line == kRow);
    weight_ = rows.weight.unsqueeze(1).expand({rows.num_sequences, rows.num_queries}).reshape({rows.num_lines()});
    values_ = rows.values.to(at::kDouble);
  }

  const at::Tensor& counts() const { return counts_; }
  const at::Tensor& values() const { return values_; }

  /// Terms of the lines, times weight, 0 where they do not count. values: float64 [L, n]
  at::Tensor weighted(const at::Tensor& values) const {
    return at::where(counts_.unsqueeze(1), values * weight_.unsqueeze(1), 0.0);
  }

  at::Tensor weight_of_lines() const { return at::where(counts_, weight_, 0.0); }

  /// Observed, then expected mass of the regions of the plane: float64 [L, 12].
  at::Tensor plane() const {
    const at::Tensor bins = rows_.bins.to(at::kDouble);
    const at::Tensor n = rows_.num_keys.to(at::kLong), length = rows_.length.to(at::kLong), i = rows_.position;
    const at::Tensor first = (i < length.floor_divide(4)).to(at::kDouble);
    const at::Tensor last = (i >= (length * 3).floor_divide(4)).to(at::kDouble);
    const at::Tensor size = n.clamp_min(1).to(at::kDouble);
    const at::Tensor share_of_first = n.floor_divide(4) / size, share_of_last = (n - (n * 3).floor_divide(4)) / size;
    const at::Tensor mass_of_first = bins.select(1, kFirstQuarter), mass_of_last = bins.select(1, kLastQuarter);
    return at::stack({values_.select(1, kDiagonal), values_.select(1, kFar), first * mass_of_first, last * mass_of_last,
                      first * mass_of_last, last * mass_of_first, values_.select(1, kDiagonalExpected),
                      values_.select(1, kFarExpected), first * share_of_first, last * share_of_last,
                      first * share_of_last, last * share_of_first},
                     1);
  }

  void count(AttentionCounter which, const at::Tensor& lines) {
    const at::Tensor counts =
        at::zeros({layout_.num_rows + 1}, words_.options()).index_add_(0, row_, lines.to(at::kLong));
    words_of_rows(which, 1).add_(counts.narrow(0, 0, layout_.num_rows).unsqueeze(1));
  }

  /// terms: float64 [L, row_sums()], 0 where they do not count.
  void add_to_rows(const at::Tensor& terms) {
    const Limbs added = limbs(terms);
    const auto add = [&](int64_t offset, const at::Tensor& limb) {
      const at::Tensor of_rows =
          at::zeros({layout_.num_rows + 1, layout_.row_sums()}, words_.options()).index_add_(0, row_, limb);
      words_of_rows(offset, layout_.row_sums()).add_(of_rows.narrow(0, 0, layout_.num_rows));
    };
    add(layout_.row_high(0), added.high);
    add(layout_.row_low(0), added.low);
  }

  /// Adds terms[l, t] to the shared sum first + (outer[l] * outer_stride) + inner[l] * n + t; float64 [L, n], int64
  /// [L].
  void scatter(const at::Tensor& terms, int64_t first, const at::Tensor& outer, int64_t outers, int64_t outer_stride,
               const at::Tensor& inner, int64_t inners) {
    const Limbs added = limbs(terms);
    const int64_t n = terms.size(1);
    const at::Tensor place = outer * inners + inner;
    const auto add = [&](int64_t offset, const at::Tensor& limb) {
      const at::Tensor sums = at::zeros({outers * inners, n}, words_.options()).index_add_(0, place, limb);
      // The places of an `outer` follow each other, those of the next are `outer_stride` further.
      words_.narrow(0, offset, (outers - 1) * outer_stride + inners * n)
          .as_strided({outers, inners * n}, {outer_stride, 1}, words_.storage_offset() + offset)
          .add_(sums.view({outers, inners * n}));
    };
    add(layout_.high(first), added.high);
    add(layout_.low(first), added.low);
  }

  /// Adds the sums over all lines.
  void add_total(const at::Tensor& terms, int64_t first) {
    const Limbs added = limbs(terms);
    words_.narrow(0, layout_.high(first), terms.size(1)).add_(added.high.sum(0));
    words_.narrow(0, layout_.low(first), terms.size(1)).add_(added.low.sum(0));
  }

  /// See Note [Standard errors].
  void add_variances() {
    const at::Tensor counts = counts_.view({rows_.num_sequences, rows_.num_queries, 1});
    const at::Tensor values = values_.view({rows_.num_sequences, rows_.num_queries, -1});
    const at::Tensor number = counts.sum(1).to(at::kDouble);  // [B, 1]
    const at::Tensor mean = at::where(counts, values, 0.0).sum(1) / number.clamp_min(1);
    const at::Tensor squares = at::where(counts, (values - mean.unsqueeze(1)).square(), 0.0).sum(1);
    const at::Tensor weight = rows_.weight.unsqueeze(1);
    const at::Tensor scale = number * weight * (weight - 1) / (number - 1).clamp_min(1);
    add_total(at::where(number > 1, squares * scale, 0.0), layout_.variance(0));
  }

  void add_heads() {
    const at::Tensor any = has_row_.bitwise_and(rows_.line != kNoRow)
                               .view({rows_.num_sequences, rows_.num_queries})
                               .any(1)
                               .view({-1, 1, 1});
    const int64_t count = layout_.num_heads * kNumHeadSums;
    const auto add = [&](int64_t offset, const at::Tensor& limb) {
      words_.narrow(0, offset, count).add_(at::where(any, limb, 0).sum(0).flatten());
    };
    add(layout_.high(layout_.head(0, 0)), rows_.head_high);
    add(layout_.low(layout_.head(0, 0)), rows_.head_low);
    at::Tensor kept = words_.narrow(0, layout_.max_score(0), layout_.num_heads);
    kept.copy_(at::maximum(kept, at::where(any.squeeze(2), rows_.head_max_score, 0).amax(0)));
  }

  void count_shared(AttentionSharedCounter which, const at::Tensor& slots) {
    words_.narrow(0, layout_.shared_begin() + which, 1).add_(slots.sum());
  }

 private:
  /// View [num_rows, count] of the words from `offset` of every row.
  at::Tensor words_of_rows(int64_t offset, int64_t count) const {
    return words_.narrow(0, 0, layout_.shared_begin()).view({layout_.num_rows, -1}).narrow(1, offset, count);
  }

  const AttentionSumsLayout layout_;
  at::Tensor words_;
  const AttentionRows& rows_;
  at::Tensor row_, has_row_, counts_, weight_, values_;  // of lines
};

}  // namespace

void add_rows_with_operations(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) {
  const AttentionSumsLayout layout = sums.layout();
  OperationSums to(sums, rows, row);
  const at::Tensor& line = rows.line;
  to.count(kQueries, line != kNoRow);
  to.count(kMeasuredRows, line == kRow);
  to.count(kEmptyRows, line == kEmptyRow);
  to.count(kNotFiniteRows, line == kNotFiniteRow);
  const at::Tensor terms = to.weighted(to.values());
  to.add_to_rows(at::cat({to.weight_of_lines().unsqueeze(1), terms}, 1));
  const at::Tensor region = rows.region.to(at::kLong);
  to.scatter(terms.narrow(1, kFirstRegion, layout.num_regions), layout.flow(0, 0), at::zeros_like(region), 1, 0, region,
             layout.num_regions);
  to.add_total(to.weighted(to.plane()), layout.observed(0));
  if (rows.sampled) to.add_variances();
  to.add_heads();
}

void add_experts_with_operations(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                                 const at::Tensor& selected, const at::Tensor& weights) {
  const AttentionSumsLayout layout = sums.layout();
  OperationSums to(sums, rows, row);
  const int64_t top_k = selected.size(1), regions = layout.num_regions;
  const at::Tensor is_expert = (selected >= 0).bitwise_and(selected < layout.num_experts);
  const at::Tensor counts = to.counts().unsqueeze(1);
  to.count_shared(kUnassignedSlots, counts.bitwise_and(is_expert.logical_not()));
  at::Tensor gates = to.weight_of_lines().unsqueeze(1).expand({-1, top_k});
  at::Tensor used = counts.bitwise_and(is_expert);
  const at::Tensor& values = to.values();
  const at::Tensor one = at::ones({rows.num_lines(), 1}, values.options());
  const at::Tensor scalars = at::cat({one, values.narrow(1, kDistance, 1), values.narrow(1, kEntropy, 1),
                                      values.narrow(1, received_column(regions), 1)},
                                     1);
  if (weights.defined()) gates = weights.detach().to(at::kDouble) * gates;
  const at::Tensor largest = gates * scalars.amax(1, true);  // of the terms of a slot
  const at::Tensor in_range = (largest > -kTermLimit).bitwise_and(largest < kTermLimit);
  to.count_shared(kWeightsOutOfRange, used.bitwise_and(in_range.logical_not()));
  used = used.bitwise_and(in_range);
  gates = at::where(used, gates, 0.0);
  const at::Tensor expert = at::where(used, selected, 0);

  const at::Tensor bins = rows.bins.narrow(1, 0, kPatternBins).to(at::kDouble);
  const at::Tensor region = rows.region.to(at::kLong);
  const at::Tensor bin = (rows.position.to(at::kLong).clamp_min(0) * kPatternBins)
                             .floor_divide(rows.length.to(at::kLong).clamp_min(1))
                             .clamp_max(kPatternBins - 1);
  const at::Tensor plane = to.plane();
  const int64_t begin = layout.expert(0), stride = layout.expert_sums(), experts = layout.num_experts;
  for (int64_t slot = 0; slot < top_k; ++slot) {
    const at::Tensor gate = gates.select(1, slot).unsqueeze(1), id = expert.select(1, slot);
    const at::Tensor none = at::zeros_like(id);
    const auto scatter = [&](const at::Tensor& terms, int64_t offset, const at::Tensor& inner, int64_t inners) {
      to.scatter(terms * gate, begin + offset, id, experts, stride, inner, inners);
    };
    scatter(scalars, 0, none, 1);
    scatter(plane, layout.expert_observed(0), none, 1);
    scatter(values.narrow(1, kFirstRegion, regions), layout.expert_flow(0, 0), region, regions);
    scatter(bins, layout.pattern(0, 0), bin, kPatternBins);
    scatter(one, layout.pattern_weight(0), bin, kPatternBins);
  }
}

}  // namespace moetap::analysis
