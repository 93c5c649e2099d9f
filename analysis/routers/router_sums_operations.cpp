#include <ATen/core/Tensor.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/round.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/triu_indices.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "analysis/numbers/fixed_point.h"
#include "analysis/routers/observe_paths.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/slot_ranking.h"
#include "analysis/routers/transition_sums.h"

// Note [The path of operations]
// Any device, in LibTorch operations only. Nothing may make the host wait for the device, so no shape depends on a
// value: masked tokens, slots without an expert and terms that are out of range are not left out, but added as 0 or to
// a place that is thrown away (row R, behind the last row). All sums are of integers, so the order of atomic additions
// does not matter.
namespace moetap::analysis {
namespace {

/// A term of each token (or slot) and whether it may be added.
struct Terms {
  at::Tensor value;     // float64 [n]; anything where not in range
  at::Tensor in_range;  // bool [n]
};

class OperationMeter {
 public:
  OperationMeter(RouterSums& sums, const at::Tensor& row)
      : layout_(sums.layout()), words_(sums.words), long_(at::TensorOptions().dtype(at::kLong).device(row.device())) {
    const at::Tensor valid = (row >= 0).bitwise_and(row < layout_.num_rows);
    row_ = at::where(valid, row, layout_.num_rows);
    valid_ = valid;
  }

  const at::Tensor& row() const { return row_; }
  const at::Tensor& valid() const { return valid_; }

  /// Adds values[t], int64 [T], to the word at `offset` of token t's row.
  void add_scalar(int64_t offset, const at::Tensor& values) {
    const at::Tensor rows = at::zeros({layout_.num_rows + 1}, long_).index_add_(0, row_, values.to(at::kLong));
    words_of_rows(offset, 1).add_(rows.narrow(0, 0, layout_.num_rows).unsqueeze(1));
  }

  /// Adds values[t, e], int64 [T, E].
  void add_vector(RowVector which, const at::Tensor& values) {
    const at::Tensor rows =
        at::zeros({layout_.num_rows + 1, layout_.num_experts}, long_).index_add_(0, row_, values.to(at::kLong));
    words_of_rows(layout_.vector(which), layout_.num_experts).add_(rows.narrow(0, 0, layout_.num_rows));
  }

  /// Adds values[t, k], int64, to expert[t, k] in [0, E), of token t's row.
  void scatter_vector(RowVector which, const at::Tensor& expert, const at::Tensor& values) {
    const at::Tensor place = (row_.unsqueeze(1) * layout_.num_experts + expert).flatten();
    const at::Tensor rows = at::zeros({(layout_.num_rows + 1) * layout_.num_experts}, long_)
                                .scatter_add_(0, place, values.to(at::kLong).flatten())
                                .view({layout_.num_rows + 1, layout_.num_experts});
    words_of_rows(layout_.vector(which), layout_.num_experts).add_(rows.narrow(0, 0, layout_.num_rows));
  }

  void add_terms(RowScalarSum which, const Terms& terms) {
    const int64_t offset = RouterSumsLayout::scalar_sum(which);
    const at::Tensor in_range =
        terms.in_range.bitwise_and((terms.value > -kTermLimit).bitwise_and(terms.value < kTermLimit));
    const auto [high, low] = limbs(at::where(in_range, terms.value, 0.0));
    add_scalar(offset + kHighLimb, high);
    add_scalar(offset + kLowLimb, low);
    count_terms(which, in_range);
  }

  void count_terms(RowScalarSum which, const at::Tensor& in_range) {
    add_scalar(RouterSumsLayout::scalar_sum(which) + kTermsAdded, in_range);
    add_scalar(RouterSumsLayout::scalar_sum(which) + kTermsOutOfRange, in_range.bitwise_not());
  }

  void add_pairs(const at::Tensor& counts) {
    words_.narrow(0, layout_.pairs_begin(), layout_.pair_words()).add_(counts);
  }

  struct Limbs {
    at::Tensor high, low;  // int64
  };

  /// As to_fixed_point; the values must be in range.
  static Limbs limbs(const at::Tensor& values) {
    const at::Tensor high = at::floor(values * kUnitsPerHigh);
    const at::Tensor low = at::round((values - high / kUnitsPerHigh) * kFixedPointScale);
    return Limbs{high.to(at::kLong), low.to(at::kLong)};
  }

 private:
  /// View [R, count] of the words from `offset` of every row.
  at::Tensor words_of_rows(int64_t offset, int64_t count) const {
    return words_.narrow(0, 0, layout_.pairs_begin()).view({layout_.num_rows, -1}).narrow(1, offset, count);
  }

  const RouterSumsLayout layout_;
  at::Tensor words_;
  at::TensorOptions long_;
  at::Tensor row_, valid_;  // int64 [T], masked tokens in row R; bool [T]
};

/// H(v), see TokenKernels: values float64 [T, n].
Terms entropy(const at::Tensor& values) {
  const at::Tensor sum = values.sum(1);
  const at::Tensor in_range = (values >= 0).all(1).bitwise_and(at::isfinite(sum));
  const at::Tensor q = values / at::where(sum > 0, sum, 1.0).unsqueeze(1);
  return Terms{(q * (q + 1e-9).log_()).sum(1).neg_().clamp_min_(0), in_range};
}

/// Adds the terms of a distribution over the experts. ranked: [T, E], whose largest value is counted.
void add_distribution(OperationMeter& meter, const at::Tensor& probabilities, const at::Tensor& ranked,
                      const at::Tensor& in_range) {
  const Terms terms = entropy(probabilities);
  const at::Tensor fit = in_range.bitwise_and(terms.in_range);
  meter.add_terms(kEntropyAll, Terms{terms.value, fit});
  meter.count_terms(kProbability, fit);
  const auto [high, low] = OperationMeter::limbs(at::where(fit.unsqueeze(1), probabilities, 0.0));
  meter.add_vector(kProbabilityHigh, high);
  meter.add_vector(kProbabilityLow, low);
  // argmax does not promise the lower id on a tie.
  const int64_t num_experts = ranked.size(1);
  const at::Tensor ids = at::arange(num_experts, ranked.options().dtype(at::kLong));
  const at::Tensor top = at::where(ranked == ranked.amax(1, true), ids, num_experts - 1).amin(1, true);
  meter.scatter_vector(kTopProbability, top, fit.unsqueeze(1));
}

void add_experts(OperationMeter& meter, const RouterCall& call) {
  at::Tensor logits, probabilities;
  if (call.logits.defined()) {
    logits = call.logits.detach().to(at::kDouble);
    const at::Tensor log_sum_exp = logits.logsumexp(1);
    const at::Tensor in_range = at::isfinite(log_sum_exp);
    meter.add_terms(kLseSquared, Terms{log_sum_exp.square(), in_range});
    if (!call.probabilities.defined()) add_distribution(meter, at::softmax(logits, 1), logits, in_range);
  }
  if (call.probabilities.defined()) {
    probabilities = call.probabilities.detach().to(at::kDouble);
    add_distribution(meter, probabilities, probabilities, (probabilities <= kMaxProbability).all(1));
  }
  if (!call.sigmoid_scores || !(call.scores.defined() || logits.defined())) return;
  const at::Tensor scores = call.scores.defined() ? call.scores.detach().to(at::kDouble) : at::sigmoid(logits);
  meter.add_terms(kScoreEntropy, entropy(scores));
}

/// Tokens that selected both of two experts, in the order of pair_index. used: bool [T, K]
at::Tensor count_pairs(const RouterSumsLayout& layout, const at::Tensor& valid, const at::Tensor& expert,
                       const at::Tensor& chosen) {
  const int64_t num_tokens = expert.size(0);
  const auto counted = chosen.bitwise_and(valid.unsqueeze(1)).to(at::kFloat);
  const at::Tensor pairs = at::zeros({layout.num_experts, layout.num_experts}, expert.options());
  // Products of zeros and ones in single precision (TensorFloat-32 too) are exact up to 2^24 tokens.
  constexpr int64_t kTokensInProduct = int64_t{1} << 23;
  for (int64_t begin = 0; begin < num_tokens; begin += kTokensInProduct) {
    const int64_t count = std::min(kTokensInProduct, num_tokens - begin);
    const at::Tensor member = at::zeros({count, layout.num_experts}, counted.options())
                                  .scatter_add_(1, expert.narrow(0, begin, count), counted.narrow(0, begin, count))
                                  .clamp_max_(1);
    pairs.add_(at::matmul(member.t(), member).to(at::kLong));
  }
  const at::Tensor upper = at::triu_indices(layout.num_experts, layout.num_experts, 1, expert.options());
  return pairs.flatten().gather(0, upper.select(0, 0) * layout.num_experts + upper.select(0, 1));
}

/// Neighbours among the valid tokens of each row.
void add_repeats(OperationMeter& meter, const at::Tensor& first) {
  const int64_t num_tokens = first.size(0);
  if (num_tokens < 2) return;
  const auto [row, order] = at::sort(meter.row(), /*stable=*/true, 0, false);
  const at::Tensor ordered = first.gather(0, order);
  const at::Tensor left = ordered.narrow(0, 0, num_tokens - 1), right = ordered.narrow(0, 1, num_tokens - 1);
  const at::Tensor neighbours = (row.narrow(0, 0, num_tokens - 1) == row.narrow(0, 1, num_tokens - 1))
                                    .bitwise_and((left >= 0).bitwise_and(right >= 0));
  // Back to the order of tokens: a pair counts for the row of its right neighbour.
  const auto add = [&](RowCounter which, const at::Tensor& counted) {
    const at::Tensor values = at::zeros({num_tokens}, first.options());
    values.scatter_(0, order.narrow(0, 1, num_tokens - 1), counted.to(at::kLong));
    meter.add_scalar(RouterSumsLayout::counter(which), values);
  };
  add(kRepeatPairs, neighbours);
  add(kRepeatHits, neighbours.bitwise_and(left == right));
}

void add_slots(OperationMeter& meter, RouterSums& sums, const RouterCall& call, const RankedSlots& ranked) {
  const int64_t num_experts = call.num_experts;
  const at::Tensor& ids = call.selected;
  const at::Tensor holds_expert = (ids >= 0).bitwise_and(ids < num_experts);
  const at::Tensor expert = at::where(holds_expert, ids, 0);
  meter.add_scalar(RouterSumsLayout::counter(kInvalidIds), holds_expert.bitwise_or(ids == -1).bitwise_not().sum(1));

  at::Tensor chosen = holds_expert;
  if (call.weights.defined()) {
    const at::Tensor weights = call.weights.detach().to(at::kDouble);
    chosen = holds_expert.bitwise_and(weights != 0);
    meter.scatter_vector(kZeroWeight, expert, holds_expert.bitwise_and(weights == 0));
    const at::Tensor in_range = chosen.bitwise_and((weights > -kTermLimit).bitwise_and(weights < kTermLimit));
    const auto [high, low] = OperationMeter::limbs(at::where(in_range, weights, 0.0));
    meter.scatter_vector(kWeightHigh, expert, high);
    meter.scatter_vector(kWeightLow, expert, low);
    const int64_t offset = RouterSumsLayout::scalar_sum(kWeight);
    meter.add_scalar(offset + kTermsAdded, in_range.sum(1));
    meter.add_scalar(offset + kTermsOutOfRange, chosen.bitwise_and(in_range.bitwise_not()).sum(1));
    meter.add_terms(kEntropyTopk, entropy(at::where(holds_expert, weights, 0.0)));
    if (ranked.largest.defined()) meter.add_terms(kMargin, Terms{ranked.margin(), meter.valid()});
  }
  meter.scatter_vector(kSelected, expert, chosen);
  meter.add_scalar(RouterSumsLayout::counter(kDroppedTokens), chosen.any(1).bitwise_not());

  const at::Tensor& first = ranked.first_slot;
  meter.scatter_vector(kFirstSlot, first.clamp_min(0).unsqueeze(1), (first >= 0).unsqueeze(1));
  add_repeats(meter, first);
  if (sums.has_pairs) meter.add_pairs(count_pairs(sums.layout(), meter.valid(), expert, chosen));
}

void write_outputs(const RouterCall& call, const RankedSlots& ranked, const TokenOutputs& outputs) {
  if (outputs.selected.defined()) {
    const at::Tensor outside = (call.selected < 0).bitwise_or(call.selected >= call.num_experts);
    outputs.selected.copy_(call.selected.masked_fill(outside, -1));
  }
  if (outputs.weights.defined() && call.weights.defined()) outputs.weights.copy_(call.weights.detach());
  if (outputs.first_slot.defined()) outputs.first_slot.copy_(ranked.first_slot);
  if (outputs.margins.defined() && ranked.largest.defined()) outputs.margins.copy_(ranked.recorded_margin());
}

}  // namespace

void observe_with_operations(RouterSums& sums, const RouterCall& call, const TokenRows& rows,
                             const TokenOutputs& outputs, const TransitionFrom& transition) {
  const int64_t num_tokens = call.selected.size(0);
  if (num_tokens == 0) return;
  OperationMeter meter(sums, row_of_tokens(rows, num_tokens, call.selected.device()));
  meter.add_scalar(RouterSumsLayout::counter(kTokens), meter.valid());
  add_experts(meter, call);
  const RankedSlots ranked = rank_slots(call);
  add_slots(meter, sums, call, ranked);
  write_outputs(call, ranked, outputs);
  if (!transition.first_slot.defined()) return;
  transition.counts.add_(observe_transition(transition.first_slot.to(at::kLong), ranked.first_slot, rows,
                                            transition.counts.size(0), call.num_experts)
                             .counts);
}

}  // namespace moetap::analysis
