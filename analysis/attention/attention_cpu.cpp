#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "analysis/attention/attention_block.h"
#include "analysis/attention/attention_paths.h"
#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/token_ranges.h"

namespace moetap::analysis {
namespace {

// What keys receive is added by blocks in any order, in units that let 2^27 rows of 1 be added.
constexpr double kReceivedUnits = 0x1p36;

void add(int64_t& to, int64_t value) {
  std::atomic_ref(to).fetch_add(value, std::memory_order_relaxed);
}

void raise(int64_t& to, int64_t value) {
  std::atomic_ref word(to);
  int64_t before = word.load(std::memory_order_relaxed);
  while (before < value && !word.compare_exchange_weak(before, value, std::memory_order_relaxed)) {
  }
}

/// A call whose blocks are measured in any order, on several threads.
class HostMeasurement {
 public:
  HostMeasurement(const AttentionCall& call, const AttentionTokens& tokens, const AttentionShape& shape,
                  AttentionRows& rows)
      : call_(call, shape), rows_(rows), values_(rows.values.mutable_data_ptr<float>()) {
    const at::Tensor positions = tokens.key_position.contiguous();
    const at::Tensor regions = tokens.key_region.defined() ? tokens.key_region.contiguous() : at::Tensor();
    keys_.reserve(static_cast<size_t>(shape.num_sequences));
    const auto* line = rows.line.const_data_ptr<uint8_t>();
    const auto* query_position = rows.position.const_data_ptr<int32_t>();
    for (int64_t sequence = 0; sequence < shape.num_sequences; ++sequence) {
      const int64_t first_key = sequence * shape.num_keys;
      keys_.emplace_back(positions.const_data_ptr<int32_t>() + first_key,
                         regions.defined() ? regions.const_data_ptr<uint8_t>() + first_key : nullptr, shape.num_keys,
                         tokens.num_regions);
      received_.emplace_back(static_cast<size_t>(keys_.back().num_valid()), 0);
      bool is_new = true;
      for (int64_t query = 0; query < shape.num_queries; ++query) {
        const int64_t index = sequence * shape.num_queries + query;
        if (line[index] != kRow) continue;
        if (is_new || blocks_.back().size() == kBlockRows) blocks_.emplace_back().sequence = sequence;
        is_new = false;
        blocks_.back().places.push_back(query);
        blocks_.back().positions.push_back(query_position[index]);
      }
    }
  }

  void measure() {
    const auto count = static_cast<int64_t>(blocks_.size());
    for_token_ranges(count, 1, [&](int64_t begin, int64_t end) {
      AttentionBlock block(call_, rows_.num_regions, rows_.matrix.defined());
      for (int64_t i = begin; i < end; ++i) {
        // Later rows see more keys: each thread gets early and late ones.
        const BlockRows& rows = blocks_[i % 2 == 0 ? i / 2 : count - 1 - i / 2];
        block.measure(rows, keys_[rows.sequence]);
        keep(rows, block);
      }
    });
    if (rows_.self) set_received();
  }

 private:
  void keep(const BlockRows& rows, const AttentionBlock& block) {
    const int64_t received = received_column(rows_.num_regions);
    auto* line = rows_.line.mutable_data_ptr<uint8_t>();
    auto* bins = rows_.bins.mutable_data_ptr<float>();
    for (int64_t lane = 0; lane < rows.size(); ++lane) {
      const int64_t index = rows.sequence * rows_.num_queries + rows.places[lane];
      line[index] = block.line(lane);
      if (block.line(lane) != kRow) continue;
      float* values = values_ + index * rows_.num_columns();
      for (int64_t c = 0; c < received; ++c) values[c] = static_cast<float>(block.values(c).of[lane]);
      if (!rows_.self) values[kSelf] = 0;
      for (int64_t c = 0; c < kNumAttentionBins; ++c) {
        bins[index * kNumAttentionBins + c] = static_cast<float>(block.bins(c).of[lane]);
      }
      if (rows_.matrix.defined()) keep_matrix(rows, block, lane);
    }
    std::vector<int64_t>& of_keys = received_[rows.sequence];
    for (size_t key = 0; key < of_keys.size(); ++key) {
      const double received_mass = block.received()[key];
      if (received_mass != 0) add(of_keys[key], std::llrint(received_mass * kReceivedUnits));
    }
    keep_heads(rows, block);
  }

  void keep_heads(const BlockRows& rows, const AttentionBlock& block) {
    const double weight = rows_.weight.const_data_ptr<double>()[rows.sequence];
    auto* high = rows_.head_high.mutable_data_ptr<int64_t>();
    auto* low = rows_.head_low.mutable_data_ptr<int64_t>();
    auto* scores = rows_.head_max_score.mutable_data_ptr<int64_t>();
    for (int64_t head = 0; head < rows_.num_heads; ++head) {
      const int64_t of_head = rows.sequence * rows_.num_heads + head;
      float largest = -HUGE_VALF;
      FixedPoint sums[kNumHeadSums];
      for (int64_t lane = 0; lane < rows.size(); ++lane) {
        if (block.line(lane) != kRow) continue;
        largest = std::max(largest, block.largest_scores(head).of[lane]);
        for (int64_t which = 0; which < kNumHeadSums; ++which) {
          const FixedPoint term = to_fixed_point(weight * block.head_terms(head, static_cast<HeadSum>(which)).of[lane]);
          sums[which].hi += term.hi;
          sums[which].lo += term.lo;
        }
      }
      for (int64_t which = 0; which < kNumHeadSums; ++which) {
        add(high[of_head * kNumHeadSums + which], sums[which].hi);
        add(low[of_head * kNumHeadSums + which], sums[which].lo);
      }
      if (has_scores() && largest > -HUGE_VALF) raise(scores[of_head], score_code(largest));
    }
  }

  bool has_scores() const { return call_.probabilities.data == nullptr || call_.scores.data != nullptr; }

  void keep_matrix(const BlockRows& rows, const AttentionBlock& block, int64_t lane) {
    float* to = rows_.matrix.mutable_data_ptr<float>() +
                (rows.sequence * rows_.num_queries + rows.places[lane]) * call_.shape.num_keys;
    const float share = 1.0F / static_cast<float>(rows_.num_heads);
    int64_t key = 0;
    for (const KeyTile& tile : keys_[rows.sequence].valid()) {
      for (const int64_t place : tile.places) to[place] = block.matrix_lanes(key++)[lane] * share;
    }
  }

  /// What each row's query receives as a key.
  void set_received() {
    const auto* line = rows_.line.const_data_ptr<uint8_t>();
    const auto* position = rows_.position.const_data_ptr<int32_t>();
    for (int64_t index = 0; index < rows_.num_lines(); ++index) {
      if (line[index] != kRow) continue;
      const int64_t sequence = index / rows_.num_queries;
      int64_t total = 0;
      keys_[sequence].each_at(position[index], [&](int64_t key) { total += received_[sequence][key]; });
      const double weight = rows_.weight.const_data_ptr<double>()[sequence];
      values_[index * rows_.num_columns() + received_column(rows_.num_regions)] =
          static_cast<float>(weight * static_cast<double>(total) / kReceivedUnits);
    }
  }

  const HostAttentionCall call_;
  AttentionRows& rows_;
  float* values_;
  std::vector<SequenceKeys> keys_;
  std::vector<std::vector<int64_t>> received_;
  std::vector<BlockRows> blocks_;
};

}  // namespace

AttentionRows measure_on_cpu(const AttentionCall& call, const AttentionTokens& tokens,
                             const AttentionOptions& options) {
  const AttentionShape shape = check_attention(call, tokens);
  AttentionRows rows = prepare_rows_on_cpu(shape, tokens, options);
  if (rows.num_lines() == 0) return rows;
  HostMeasurement(call, tokens, shape, rows).measure();
  return rows;
}

}  // namespace moetap::analysis
