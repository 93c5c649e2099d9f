#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <vector>

#include "analysis/attention/attention_sums.h"
#include "analysis/attention/attention_sums_paths.h"
#include "analysis/attention/attention_terms.h"
#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/token_kernels.h"

namespace moetap::analysis {
namespace {

constexpr int64_t kMaxColumns = num_attention_columns(kMaxAttentionRegions);

/// Values that are added in fixed point to words that follow each other.
template <int64_t kMaxTerms>
struct Terms {
  double values[kMaxTerms];
  int64_t high[kMaxTerms], low[kMaxTerms];

  void to_limbs(int64_t count) { token_kernels().to_limbs(values, count, high, low); }

  /// Adds `count` terms from `first` on.
  void add(int64_t first, int64_t count, int64_t* to_high, int64_t* to_low) const {
    for (int64_t i = 0; i < count; ++i) {
      to_high[i] += high[first + i];
      to_low[i] += low[first + i];
    }
  }
};

/// Plain memory of rows on the CPU.
class HostRows {
 public:
  HostRows(const AttentionRows& rows, const at::Tensor& row)
      : rows_(rows),
        line_(rows.line.const_data_ptr<uint8_t>()),
        values_(rows.values.const_data_ptr<float>()),
        bins_(rows.bins.const_data_ptr<float>()),
        region_(rows.region.const_data_ptr<uint8_t>()),
        position_(rows.position.const_data_ptr<int32_t>()),
        num_keys_(rows.num_keys.const_data_ptr<int32_t>()),
        length_(rows.length.const_data_ptr<int32_t>()),
        weight_(rows.weight.const_data_ptr<double>()),
        row_(row.contiguous()),
        row_of_(row_.const_data_ptr<int64_t>()),
        per_line_(row.size(0) == rows.num_lines() && rows.num_queries != 1) {}

  int64_t row(int64_t line) const { return row_of_[per_line_ ? line : line / rows_.num_queries]; }
  bool has_row(int64_t line, int64_t num_rows) const { return row(line) >= 0 && row(line) < num_rows; }
  uint8_t line(int64_t line) const { return line_[line]; }
  bool is_row(int64_t line) const { return line_[line] == kRow; }
  double weight(int64_t line) const { return weight_[line / rows_.num_queries]; }
  const float* values(int64_t line) const { return values_ + line * rows_.num_columns(); }
  const float* bins(int64_t line) const { return bins_ + line * kNumAttentionBins; }
  int64_t region(int64_t line) const { return region_[line]; }

  /// The terms that are no columns.
  AttentionRowValues terms(int64_t line) const {
    return {values(line), bins(line), position_[line], num_keys_[line], length_[line]};
  }

  /// Observed, then expected mass of the regions of the plane.
  void plane(int64_t line, double* terms) const {
    const AttentionRowValues of_line = this->terms(line);
    for (int32_t term = 0; term < kNumPlaneTerms; ++term) terms[term] = of_line.plane_term(term);
  }

 private:
  const AttentionRows& rows_;
  const uint8_t* line_;
  const float *values_, *bins_;
  const uint8_t* region_;
  const int32_t *position_, *num_keys_, *length_;
  const double* weight_;
  const at::Tensor row_;
  const int64_t* row_of_;
  const bool per_line_;
};

/// See Note [Standard errors].
void add_variances(const AttentionSumsLayout& layout, int64_t* words, const HostRows& rows, int64_t begin,
                   int64_t end) {
  double means[kMaxColumns] = {};
  Terms<kMaxColumns> terms;
  std::fill_n(terms.values, kMaxColumns, 0.0);
  const int64_t num_columns = layout.num_columns();
  int64_t count = 0;
  const auto counts = [&](int64_t line) { return rows.is_row(line) && rows.has_row(line, layout.num_rows); };
  for (int64_t line = begin; line < end; ++line) {
    if (!counts(line)) continue;
    ++count;
    for (int64_t c = 0; c < num_columns; ++c) means[c] += rows.values(line)[c];
  }
  if (count < 2) return;
  for (int64_t c = 0; c < num_columns; ++c) means[c] /= static_cast<double>(count);
  for (int64_t line = begin; line < end; ++line) {
    if (!counts(line)) continue;
    for (int64_t c = 0; c < num_columns; ++c) {
      const double away = rows.values(line)[c] - means[c];
      terms.values[c] += away * away;
    }
  }
  const double weight = rows.weight(begin);  // N_s / n_s
  const double scale = static_cast<double>(count) * weight * (weight - 1) / static_cast<double>(count - 1);
  for (int64_t c = 0; c < num_columns; ++c) terms.values[c] *= scale;
  terms.to_limbs(num_columns);
  terms.add(0, num_columns, words + layout.high(layout.variance(0)), words + layout.low(layout.variance(0)));
}

void add_heads(const AttentionSumsLayout& layout, int64_t* words, const AttentionRows& rows, int64_t sequence) {
  const int64_t count = layout.num_heads * kNumHeadSums;
  const int64_t* high = rows.head_high.const_data_ptr<int64_t>() + sequence * count;
  const int64_t* low = rows.head_low.const_data_ptr<int64_t>() + sequence * count;
  const int64_t* score = rows.head_max_score.const_data_ptr<int64_t>() + sequence * layout.num_heads;
  for (int64_t i = 0; i < count; ++i) {
    words[layout.high(layout.head(0, i))] += high[i];
    words[layout.low(layout.head(0, i))] += low[i];
  }
  for (int64_t head = 0; head < layout.num_heads; ++head) {
    int64_t& kept = words[layout.max_score(head)];
    kept = std::max(kept, score[head]);
  }
}

/// The largest number that a slot's weight is multiplied by; all others are at most 1, or ln n.
double largest_factor(const double* scalars) {
  return std::max({1.0, scalars[kExpertDistance], scalars[kExpertEntropy], scalars[kExpertReceived]});
}

}  // namespace

void add_rows_on_cpu(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) {
  const AttentionSumsLayout layout = sums.layout();
  const HostRows host(rows, row);
  int64_t* words = sums.words.mutable_data_ptr<int64_t>();
  Terms<1 + kMaxColumns + kNumPlaneTerms> terms;
  const int64_t num_columns = layout.num_columns(), plane_begin = 1 + num_columns;
  for (int64_t sequence = 0; sequence < rows.num_sequences; ++sequence) {
    const int64_t begin = sequence * rows.num_queries, end = begin + rows.num_queries;
    bool any = false;
    for (int64_t line = begin; line < end; ++line) {
      if (host.line(line) == kNoRow || !host.has_row(line, layout.num_rows)) continue;
      any = true;
      int64_t* of_row = words + host.row(line) * layout.row_words();
      ++of_row[kQueries];
      of_row[kEmptyRows] += host.line(line) == kEmptyRow ? 1 : 0;
      of_row[kNotFiniteRows] += host.line(line) == kNotFiniteRow ? 1 : 0;
      if (!host.is_row(line)) continue;
      ++of_row[kMeasuredRows];
      const double weight = host.weight(line);
      const float* values = host.values(line);
      terms.values[0] = weight;
      for (int64_t c = 0; c < num_columns; ++c) terms.values[1 + c] = weight * values[c];
      host.plane(line, terms.values + plane_begin);
      for (int64_t i = 0; i < kNumPlaneTerms; ++i) terms.values[plane_begin + i] *= weight;
      terms.to_limbs(plane_begin + kNumPlaneTerms);
      terms.add(0, layout.row_sums(), of_row + layout.row_high(0), of_row + layout.row_low(0));
      const int64_t flow = layout.flow(host.region(line), 0);
      terms.add(1 + kFirstRegion, layout.num_regions, words + layout.high(flow), words + layout.low(flow));
      const int64_t plane = layout.observed(0);
      terms.add(plane_begin, kNumPlaneTerms, words + layout.high(plane), words + layout.low(plane));
    }
    if (!any) continue;
    if (rows.sampled) add_variances(layout, words, host, begin, end);
    add_heads(layout, words, rows, sequence);
  }
}

void add_experts_on_cpu(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                        const at::Tensor& selected, const at::Tensor& weights) {
  const AttentionSumsLayout layout = sums.layout();
  const HostRows host(rows, row);
  int64_t* words = sums.words.mutable_data_ptr<int64_t>();
  const at::Tensor ids = selected.contiguous();
  const at::Tensor gates = weights.defined() ? weights.detach().to(at::kDouble).contiguous() : at::Tensor();
  const int64_t top_k = ids.size(1), regions = layout.num_regions;

  // The terms of a slot, in the order of the expert's sums up to the pattern: scalars, the row of the flow, the plane,
  // the row of the pattern and its weight.
  const int64_t flow_begin = kNumExpertScalars, plane_begin = flow_begin + regions,
                pattern_begin = plane_begin + kNumPlaneTerms, count = pattern_begin + kPatternBins + 1;
  constexpr int64_t kMaxTerms = kNumExpertScalars + kMaxAttentionRegions + kNumPlaneTerms + kPatternBins + 1;
  double of_line[kMaxTerms];
  Terms<kMaxTerms> terms;
  for (int64_t line = 0; line < rows.num_lines(); ++line) {
    if (!host.is_row(line) || !host.has_row(line, layout.num_rows)) continue;
    const float *values = host.values(line), *bins = host.bins(line);
    of_line[kGateMass] = 1;
    of_line[kExpertDistance] = values[kDistance];
    of_line[kExpertEntropy] = values[kEntropy];
    of_line[kExpertReceived] = values[received_column(regions)];
    std::copy_n(values + kFirstRegion, regions, of_line + flow_begin);
    host.plane(line, of_line + plane_begin);
    std::copy_n(bins, kPatternBins, of_line + pattern_begin);
    of_line[pattern_begin + kPatternBins] = 1;
    const int64_t bin = host.terms(line).query_bin();
    const double largest = largest_factor(of_line);
    for (int64_t slot = 0; slot < top_k; ++slot) {
      const int64_t id = ids.const_data_ptr<int64_t>()[line * top_k + slot];
      if (id < 0 || id >= layout.num_experts) {
        ++words[layout.shared_begin() + kUnassignedSlots];
        continue;
      }
      const double gate = gates.defined() ? gates.const_data_ptr<double>()[line * top_k + slot] : 1;
      const double weight = gate * host.weight(line);
      if (!in_range(weight * largest)) {
        ++words[layout.shared_begin() + kWeightsOutOfRange];
        continue;
      }
      for (int64_t i = 0; i < count; ++i) terms.values[i] = weight * of_line[i];
      terms.to_limbs(count);
      const auto add = [&](int64_t first, int64_t number, int64_t offset) {
        const int64_t sum = layout.expert(id) + offset;
        terms.add(first, number, words + layout.high(sum), words + layout.low(sum));
      };
      add(0, kNumExpertScalars, 0);
      add(flow_begin, regions, layout.expert_flow(host.region(line), 0));
      add(plane_begin, kNumPlaneTerms, layout.expert_observed(0));
      add(pattern_begin, kPatternBins, layout.pattern(bin, 0));
      add(pattern_begin + kPatternBins, 1, layout.pattern_weight(bin));
    }
  }
}

}  // namespace moetap::analysis
