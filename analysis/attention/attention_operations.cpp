#include <ATen/core/Tensor.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/round.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/special_entr.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "analysis/attention/attention_paths.h"
#include "analysis/numbers/fixed_point.h"

// The reference: what the values are, in the plainest operations, in double precision. It runs on any device and makes
// the host wait for nothing, so no shape depends on a value: what is no row or no key is not left out but becomes 0. A
// block of queries is measured at once, against all keys.
namespace moetap::analysis {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr int64_t kElementsInBlock = int64_t{1} << 22;  // B * H * queries * Sk

/// Probabilities of a block of queries, float64 [B, H, q, Sk], and the scores they were made of, undefined if not
/// known.
struct BlockOfProbabilities {
  at::Tensor probabilities, scores;
};

BlockOfProbabilities given_probabilities(const AttentionCall& call, int64_t begin, int64_t count) {
  BlockOfProbabilities block{call.probabilities.detach().narrow(2, begin, count).to(at::kDouble), {}};
  if (!call.scores.defined()) return block;
  block.scores = call.scores.detach().narrow(2, begin, count).to(at::kDouble);
  // A softmax of nothing but -inf gives NaN: such a row is empty.
  const at::Tensor nothing = (block.scores == kMinusInfinity).all(3, true);
  block.probabilities = block.probabilities.masked_fill(nothing, 0);
  return block;
}

BlockOfProbabilities made_probabilities(const AttentionCall& call, const AttentionShape& shape, int64_t begin,
                                        int64_t count) {
  const int64_t group = shape.num_heads / shape.num_key_heads;
  const at::Tensor query = call.query.detach().narrow(2, begin, count).to(at::kDouble);
  const at::Tensor key = call.key.detach().to(at::kDouble);
  at::Tensor scores = at::matmul(query.reshape({shape.num_sequences, shape.num_key_heads, group, count, query.size(3)}),
                                 key.unsqueeze(2).transpose(-2, -1))
                          .reshape({shape.num_sequences, shape.num_heads, count, shape.num_keys}) *
                      call.scale;
  if (call.mask.defined()) {
    at::Tensor mask = call.mask.detach();
    if (mask.dim() >= 2 && mask.size(-2) > 1) mask = mask.narrow(-2, begin, count);
    scores = mask.scalar_type() == at::kBool ? scores.masked_fill(mask.logical_not(), kMinusInfinity)
                                             : scores + mask.to(at::kDouble);
  }
  if (call.causal) {
    const auto options = at::TensorOptions().dtype(at::kLong).device(scores.device());
    const at::Tensor i = at::arange(begin, begin + count, options).unsqueeze(1);
    const at::Tensor j = at::arange(shape.num_keys, options);
    scores = scores.masked_fill(j > i, kMinusInfinity);
  }
  // A difference from the logarithm of the sum would lose that sum where all scores are the lowest number of a dtype.
  const at::Tensor nothing = (scores == kMinusInfinity).all(3, true);
  return {at::softmax(scores, 3).masked_fill(nothing, 0), scores};
}

class OperationMeter {
 public:
  OperationMeter(const AttentionShape& shape, const AttentionTokens& tokens, AttentionRows& rows)
      : shape_(shape),
        rows_(rows),
        values_(rows.values.view({shape.num_sequences, shape.num_queries, -1})),
        bins_(rows.bins.view({shape.num_sequences, shape.num_queries, -1})),
        line_(rows.line.view({shape.num_sequences, shape.num_queries})),
        query_position_(tokens.query_position.to(at::kLong).unsqueeze(2)),
        key_position_(tokens.key_position.to(at::kLong).unsqueeze(1)),
        is_key_(key_position_ >= 0),
        num_keys_(is_key_.sum(2, true)),
        region_(one_hot(key_regions(tokens).to(at::kLong).unsqueeze(1), tokens.num_regions)),
        bin_(one_hot((key_position_ * kPatternBins).floor_divide(num_keys_.clamp_min(1)).clamp(0, kPatternBins - 1),
                     kPatternBins)),
        received_(at::zeros({shape.num_sequences, 1, shape.num_keys}, rows.weight.options())) {}

  void add(const BlockOfProbabilities& block, int64_t begin) {
    const int64_t count = block.probabilities.size(2);
    const at::Tensor i = query_position_.narrow(1, begin, count);

    const at::Tensor masses_of_keys = at::where(is_key_.unsqueeze(1), block.probabilities, 0.0);
    const at::Tensor mass = masses_of_keys.sum(3, true);  // [B, H, q, 1]
    at::Tensor line = line_.narrow(1, begin, count);
    const at::Tensor asked = line == kRow;
    const at::Tensor finite = at::isfinite(mass).all(1).squeeze(2), some = (mass > 0).any(1).squeeze(2);
    const at::Tensor is_row = asked.bitwise_and(finite).bitwise_and(some);
    line.masked_fill_(asked.bitwise_and(finite.logical_not()), kNotFiniteRow);
    line.masked_fill_(asked.bitwise_and(finite).bitwise_and(some.logical_not()), kEmptyRow);

    const at::Tensor of_heads = is_row.unsqueeze(1);     // [B, 1, q]
    const at::Tensor rows_only = of_heads.unsqueeze(3);  // [B, 1, q, 1]
    const at::Tensor p =
        at::where(rows_only.bitwise_and(mass > 0), masses_of_keys / mass.masked_fill(mass == 0, 1), 0.0);
    const at::Tensor mean = p.mean(1);  // [B, q, Sk]
    const at::Tensor entropy = at::special_entr(p).sum(3), weight = p.amax(3);
    const at::Tensor away = (i - key_position_).abs();

    set(kEntropy, begin, entropy.mean(1));
    set(kMaxWeight, begin, weight.mean(1));
    set(kKeyMass, begin, at::where(of_heads, mass.squeeze(3), 0.0).mean(1));
    set(kDistance, begin, (mean * away).sum(2));
    if (rows_.self) set(kSelf, begin, sum_where(mean, i == key_position_));
    const auto set_band = [&](AttentionValue observed, AttentionValue expected, const at::Tensor& band) {
      set(observed, begin, sum_where(mean, band));
      const at::Tensor share = band.bitwise_and(is_key_).sum(2).to(at::kDouble) / num_keys_.squeeze(2).clamp_min(1);
      set(expected, begin, at::where(is_row, share, 0.0));
    };
    set_band(kDiagonal, kDiagonalExpected, away <= kDiagonalWidth);
    set_band(kFar, kFarExpected, away > num_keys_.floor_divide(2));
    const at::Tensor is_first = key_position_ < kEndKeys;
    set(kFirst, begin, sum_where(mean, is_first));
    set(kLast, begin, sum_where(mean, key_position_ >= num_keys_ - kEndKeys));
    values_.narrow(1, begin, count).narrow(2, kFirstRegion, rows_.num_regions).copy_(at::matmul(mean, region_));

    at::Tensor bins = bins_.narrow(1, begin, count);
    bins.narrow(2, 0, kPatternBins).copy_(at::matmul(mean, bin_));
    bins.select(2, kFirstQuarter).copy_(sum_where(mean, key_position_ < num_keys_.floor_divide(4)));
    bins.select(2, kLastQuarter).copy_(sum_where(mean, key_position_ >= (num_keys_ * 3).floor_divide(4)));

    received_.add_(mean.sum(1, true));
    const at::Tensor first_of_heads = (p * is_first.unsqueeze(1)).sum(3);
    add_heads(kHeadEntropy, entropy);
    add_heads(kHeadDistance, (p * away.unsqueeze(1)).sum(3));
    add_heads(kHeadFirst, first_of_heads);
    if (block.scores.defined()) add_largest(block.scores, rows_only.bitwise_and(is_key_.unsqueeze(1)));
    if (rows_.matrix.defined()) {
      rows_.matrix.narrow(1, begin, count).copy_(at::where(rows_only, masses_of_keys, 0.0).mean(1));
    }
  }

  /// What each query receives as a key, once all blocks are there.
  void set_received(int64_t queries_in_block) {
    const at::Tensor received = received_ * rows_.weight.view({-1, 1, 1});
    for (int64_t begin = 0; begin < shape_.num_queries; begin += queries_in_block) {
      const int64_t count = std::min(queries_in_block, shape_.num_queries - begin);
      const at::Tensor is_row = line_.narrow(1, begin, count) == kRow;
      const at::Tensor own = query_position_.narrow(1, begin, count) == key_position_;
      values_.narrow(1, begin, count)
          .select(2, received_column(rows_.num_regions))
          .copy_(at::where(is_row, at::where(own, received, 0.0).sum(2), 0.0));
    }
  }

 private:
  /// float64 [B, Sk, size] of [B, 1, Sk], 0 for padding.
  at::Tensor one_hot(const at::Tensor& which, int64_t size) const {
    const at::Tensor hot = which.squeeze(1).unsqueeze(2) == at::arange(size, which.options());
    return hot.bitwise_and(is_key_.squeeze(1).unsqueeze(2)).to(at::kDouble);
  }

  static at::Tensor sum_where(const at::Tensor& mean, const at::Tensor& condition) {
    return at::where(condition, mean, 0.0).sum(2);
  }

  void set(AttentionValue column, int64_t begin, const at::Tensor& values) {
    values_.narrow(1, begin, values.size(1)).select(2, column).copy_(values);
  }

  /// of_rows: float64 [B, H, q], 0 where there is no row. As to_fixed_point.
  void add_heads(HeadSum which, const at::Tensor& of_rows) {
    const at::Tensor terms = of_rows * rows_.weight.view({-1, 1, 1});
    const at::Tensor high = at::floor(terms * kUnitsPerHigh);
    const at::Tensor low = at::round((terms - high / kUnitsPerHigh) * kFixedPointScale);
    rows_.head_high.select(2, which).add_(high.to(at::kLong).sum(2));
    rows_.head_low.select(2, which).add_(low.to(at::kLong).sum(2));
  }

  void add_largest(const at::Tensor& scores, const at::Tensor& counted) {
    const at::Tensor largest = at::where(counted, scores, kMinusInfinity).amax({2, 3}).to(at::kFloat);
    // As `score_code`; kept at 0 where there is no score.
    const at::Tensor bits = largest.view(at::kInt).to(at::kLong);
    const at::Tensor code = at::where(bits >= 0, bits + (int64_t{1} << 31), -bits - 1) + 1;
    at::Tensor& kept = rows_.head_max_score;
    kept.copy_(at::maximum(kept, code.masked_fill(largest == kMinusInfinity, 0)));
  }

  const AttentionShape shape_;
  AttentionRows& rows_;
  at::Tensor values_, bins_, line_;  // [B, Sq, ...]
  const at::Tensor query_position_;  // int64 [B, Sq, 1]
  const at::Tensor key_position_;    // int64 [B, 1, Sk]
  const at::Tensor is_key_;          // bool [B, 1, Sk]
  const at::Tensor num_keys_;        // int64 [B, 1, 1]
  const at::Tensor region_, bin_;    // float64 [B, Sk, R], [B, Sk, 16]: one-hot
  at::Tensor received_;              // float64 [B, 1, Sk]: sum over the rows of p, mean over heads
};

}  // namespace

at::Tensor attention_probabilities(const AttentionCall& call, const AttentionTokens& tokens) {
  const AttentionShape shape = check_attention(call, tokens);
  return (call.probabilities.defined() ? given_probabilities(call, 0, shape.num_queries)
                                       : made_probabilities(call, shape, 0, shape.num_queries))
      .probabilities;
}

AttentionRows measure_with_operations(const AttentionCall& call, const AttentionTokens& tokens,
                                      const AttentionOptions& options) {
  const AttentionShape shape = check_attention(call, tokens);
  AttentionRows rows = prepare_rows(shape, tokens, options, tokens.query_position.device());
  if (rows.num_lines() == 0 || shape.num_keys == 0) {
    rows.line.masked_fill_(rows.line == kRow, kEmptyRow);
    return rows;
  }
  OperationMeter meter(shape, tokens, rows);
  const int64_t queries_in_block =
      std::max<int64_t>(1, kElementsInBlock / (shape.num_sequences * shape.num_heads * shape.num_keys));
  for (int64_t begin = 0; begin < shape.num_queries; begin += queries_in_block) {
    const int64_t count = std::min(queries_in_block, shape.num_queries - begin);
    meter.add(call.probabilities.defined() ? given_probabilities(call, begin, count)
                                           : made_probabilities(call, shape, begin, count),
              begin);
  }
  if (rows.self) meter.set_received(queries_in_block);
  return rows;
}

}  // namespace moetap::analysis
