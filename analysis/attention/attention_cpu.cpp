#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "analysis/attention/attention_block.h"
#include "analysis/attention/attention_paths.h"
#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/token_ranges.h"

namespace moetap::analysis {
namespace {

// What keys receive is added by blocks in any order, in units that let 2^27 rows of 1 be added.
constexpr double kReceivedUnits = 0x1p36;

// Rows of sequences of no more queries are measured one by one. What counts is the sequence, not what is measured of
// it, so a row's bits do not depend on what is sampled beside it.
constexpr int64_t kFewQueries = 8;

/// The lists of a call.
struct CallLists {
  std::vector<BlockRows> blocks;
  std::vector<int64_t> received;

  int64_t bytes() const {
    return static_cast<int64_t>(blocks.capacity() * sizeof(BlockRows) + received.capacity() * sizeof(int64_t));
  }
};

/// An object that a thread keeps with its memory for its next call, so that a step of generation takes none; not one
/// of a long call.
template <typename Object>
class Kept {
 public:
  Kept() : object_(std::move(kept())) {
    if (!object_) object_ = std::make_unique<Object>();
  }
  ~Kept() {
    if (object_->bytes() <= kMostBytes) kept() = std::move(object_);
  }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;

  Object& operator*() const { return *object_; }

 private:
  static constexpr int64_t kMostBytes = int64_t{2} << 20;

  static std::unique_ptr<Object>& kept() {
    thread_local std::unique_ptr<Object> object;
    return object;
  }
  std::unique_ptr<Object> object_;
};

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
      : call_(call, shape),
        rows_(rows),
        values_(rows.values.mutable_data_ptr<float>()),
        keys_(tokens.sequences ? tokens.sequences : sequence_keys(tokens)),
        blocks_((*lists_).blocks),
        received_((*lists_).received) {
    blocks_.clear();
    received_.assign(static_cast<size_t>(rows.self ? shape.num_sequences * shape.num_keys : 0), 0);
    const auto* line = rows.line.const_data_ptr<uint8_t>();
    const auto* query_position = rows.position.const_data_ptr<int32_t>();
    for (int64_t sequence = 0; sequence < shape.num_sequences; ++sequence) {
      const uint8_t* lines = line + sequence * shape.num_queries;
      const auto num_queries =
          std::count_if(lines, lines + shape.num_queries, [](uint8_t each) { return each != kNoRow; });
      const bool by_keys = num_queries <= kFewQueries;
      bool is_new = true;
      for (int64_t query = 0; query < shape.num_queries; ++query) {
        const int64_t index = sequence * shape.num_queries + query;
        if (line[index] != kRow) continue;
        if (is_new || by_keys || blocks_.back().size == kBlockRows) {
          blocks_.emplace_back().sequence = sequence;
          blocks_.back().by_keys = by_keys;
        }
        is_new = false;
        blocks_.back().add(query, query_position[index]);
      }
    }
  }

  void measure() {
    const auto count = static_cast<int64_t>(blocks_.size());
    for_token_ranges(count, 1, [&](int64_t begin, int64_t end) {
      const Kept<AttentionBlock> kept;
      AttentionBlock& block = *kept;
      block.begin(call_, rows_.num_regions, rows_.matrix.defined());
      for (int64_t i = begin; i < end; ++i) {
        // Later rows see more keys: each thread gets early and late ones.
        const BlockRows& rows = blocks_[i % 2 == 0 ? i / 2 : count - 1 - i / 2];
        block.measure(rows, (*keys_)[rows.sequence]);
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
    for (int64_t lane = 0; lane < rows.size; ++lane) {
      const int64_t index = rows.sequence * rows_.num_queries + rows.place[lane];
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
    for (size_t key = 0; rows_.self && key < block.received().size(); ++key) {
      const double received_mass = block.received()[key];
      if (received_mass != 0) {
        add(received_of(rows.sequence, static_cast<int64_t>(key)), std::llrint(received_mass * kReceivedUnits));
      }
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
      for (int64_t lane = 0; lane < rows.size; ++lane) {
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
                (rows.sequence * rows_.num_queries + rows.place[lane]) * call_.shape.num_keys;
    const float share = 1.0F / static_cast<float>(rows_.num_heads);
    int64_t key = 0;
    for (const KeyTile& tile : (*keys_)[rows.sequence].valid()) {
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
      (*keys_)[sequence].each_at(position[index], [&](int64_t key) { total += received_of(sequence, key); });
      const double weight = rows_.weight.const_data_ptr<double>()[sequence];
      values_[index * rows_.num_columns() + received_column(rows_.num_regions)] =
          static_cast<float>(weight * static_cast<double>(total) / kReceivedUnits);
    }
  }

  /// What a key receives; `key`: its number among the valid ones.
  int64_t& received_of(int64_t sequence, int64_t key) { return received_[sequence * call_.shape.num_keys + key]; }

  const HostAttentionCall call_;
  AttentionRows& rows_;
  float* values_;
  const std::shared_ptr<const std::vector<SequenceKeys>> keys_;
  const Kept<CallLists> lists_;
  std::vector<BlockRows>& blocks_;
  std::vector<int64_t>& received_;  // [B, Sk]; self attention only
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
