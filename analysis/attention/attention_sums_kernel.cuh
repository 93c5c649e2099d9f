#pragma once

#include "analysis/attention/attention_kernel_values.cuh"
#include "analysis/attention/attention_sums_kernel_arguments.h"
#include "analysis/attention/attention_terms.h"
#include "analysis/numbers/fixed_point.h"

// Note [Kernels of attention sums]
// The rows of a call lie on the device until the router of its layer has reported; then they are added to the sums of
// samples and of experts there (Note [Layout of attention sums]). A row's terms are made as the CPU makes them, and
// added as integers, so no order of threads changes a bit.
//
//   by rows     a warp owns up to 64 lines of a sequence; a lane owns a column of them, and a term of the plane
//   by expert   a block owns an expert, and a part of the slots; a warp looks at 32 slots at once and adds those of
//               the expert, one by one; a lane owns some of the sums
//
// What a lane owns lies in registers or in shared memory of its warp, so that nothing there is added atomically. An id
// is read by a block of each expert: that is less work than adding each of a slot's 50 terms to memory.
namespace moetap::analysis::attention_kernel {

/// The rows, as both kernels read them.
class LinesOfSums {
 public:
  MOETAP_DEVICE explicit LinesOfSums(const AttentionSumsArguments& call)
      : columns_(static_cast<int32_t>(call.layout.num_columns())), call_(call) {}

  /// The row of the sums that a sequence has; -1: none.
  MOETAP_DEVICE int64_t row(int64_t sequence) const {
    const int64_t row = call_.row != nullptr ? call_.row[sequence] : call_.layout.num_rows == 1 ? 0 : sequence;
    return row < call_.layout.num_rows ? row : -1;
  }
  MOETAP_DEVICE AttentionRowValues values(int64_t line) const {
    return {call_.values + line * columns_, call_.bins + line * kNumAttentionBins, call_.position[line],
            call_.num_keys[line], call_.length[line]};
  }

 private:
  const int32_t columns_;
  const AttentionSumsArguments& call_;
};

/// Adds to words that only this lane writes to.
MOETAP_DEVICE inline void add_own(int64_t* high, int64_t* low, const FixedPoint& term) {
  *high += term.hi;
  *low += term.lo;
}
MOETAP_DEVICE inline void add_shared(int64_t* words, int64_t high, int64_t low, const FixedPoint& term) {
  if (term.hi != 0) warp::add(words + high, term.hi);
  if (term.lo != 0) warp::add(words + low, term.lo);
}

/// `add_rows`. A warp has a part of a sequence; behind these are warps for the variances of a sequence each.
class RowSumsAdder {
 public:
  MOETAP_DEVICE explicit RowSumsAdder(const AttentionSumsArguments& call)
      : call_(call), lines_(call), num_regions_(static_cast<int32_t>(call.layout.num_regions)) {
    flow_ = warp::shared_memory() + warp::warp_of_block() * flow_words(call.layout);
  }

  MOETAP_DEVICE void run() {
    const int64_t number = warp::block() * kWarpsOfSums + warp::warp_of_block();
    const int64_t of_lines = int64_t{call_.num_sequences} * call_.parts;
    if (number < of_lines) {
      add_part(number / call_.parts, static_cast<int32_t>(number % call_.parts));
    } else if (call_.sampled && number < of_lines + call_.num_sequences) {
      add_variances(number - of_lines);
    }
  }

 private:
  // Lanes 0 to 28 own the weight and the columns; of these, those of the regions own their columns of the flow.
  static constexpr int32_t kFirstRegionLane = 1 + static_cast<int32_t>(kFirstRegion);
  static_assert(1 + num_attention_columns(kMaxAttentionRegions) <= 32 && kNumPlaneTerms <= 32);

  /// Calls add(line) for the lines of [begin, end) that are rows, one by one; counts what lines are.
  template <typename Add>
  MOETAP_DEVICE void for_rows(int64_t begin, int64_t end, int32_t (&counts)[kNumAttentionCounters],
                              const Add& add) const {
    for (int64_t first = begin; first < end; first += 32) {
      const int64_t own = first + warp::lane();
      const uint8_t line = own < end ? call_.line[own] : uint8_t{kNoRow};
      unsigned rows = warp::ballot(line == kRow);
      counts[kQueries] += warp::count_bits(warp::ballot(line != kNoRow));
      counts[kMeasuredRows] += warp::count_bits(rows);
      counts[kEmptyRows] += warp::count_bits(warp::ballot(line == kEmptyRow));
      counts[kNotFiniteRows] += warp::count_bits(warp::ballot(line == kNotFiniteRow));
      for (; rows != 0; rows &= rows - 1) add(first + warp::lowest_bit(rows));
    }
  }

  MOETAP_DEVICE int64_t* flow_high(int32_t from, int32_t to) const { return flow_ + from * num_regions_ + to; }
  MOETAP_DEVICE int64_t* flow_low(int32_t from, int32_t to) const {
    return flow_high(from, to) + num_regions_ * num_regions_;
  }

  MOETAP_DEVICE void add_part(int64_t sequence, int32_t part) {
    const int64_t row = lines_.row(sequence);
    if (row < 0) return;
    const AttentionSumsLayout& layout = call_.layout;
    const int32_t lane = warp::lane(), to = lane - kFirstRegionLane;
    const bool has_column = lane < static_cast<int32_t>(layout.row_sums()), has_flow = to >= 0 && to < num_regions_;
    if (has_flow) {
      for (int32_t from = 0; from < num_regions_; ++from) *flow_high(from, to) = *flow_low(from, to) = 0;
    }
    const double weight = call_.weight[sequence];
    const int64_t first = sequence * call_.num_queries, end = first + call_.num_queries;
    const int64_t begin = first + int64_t{part} * kLinesOfWarp;
    int32_t counts[kNumAttentionCounters] = {};
    FixedPoint column, plane;
    for_rows(begin, begin + kLinesOfWarp < end ? begin + kLinesOfWarp : end, counts, [&](int64_t line) {
      const AttentionRowValues values = lines_.values(line);
      if (has_column) {
        const FixedPoint term = to_fixed_point(lane == 0 ? weight : weight * values.values[lane - 1]);
        add_own(&column.hi, &column.lo, term);
        const int32_t from = call_.region[line];
        if (has_flow) add_own(flow_high(from, to), flow_low(from, to), term);
      }
      if (lane < kNumPlaneTerms) {
        add_own(&plane.hi, &plane.lo, to_fixed_point(values.plane_term(lane) * weight));
      }
    });
    const int64_t of_row = row * layout.row_words();
    if (has_column) add_shared(call_.words, of_row + layout.row_high(lane), of_row + layout.row_low(lane), column);
    if (lane < kNumPlaneTerms) add_to_sum(layout.observed(0) + lane, plane);
    for (int32_t from = 0; has_flow && from < num_regions_; ++from) {
      add_to_sum(layout.flow(from, to), {*flow_high(from, to), *flow_low(from, to)});
    }
    if (lane < kNumAttentionCounters) {
      int32_t count = counts[0];
      MOETAP_UNROLL
      for (int i = 1; i < kNumAttentionCounters; ++i) count = lane == i ? counts[i] : count;
      if (count != 0) warp::add(call_.words + of_row + lane, int64_t{count});
    }
    if (part == 0) add_heads(sequence);
  }

  MOETAP_DEVICE void add_heads(int64_t sequence) const {
    const int64_t heads = call_.layout.num_heads, count = heads * kNumHeadSums;
    for (int64_t i = warp::lane(); i < count; i += 32) {
      add_to_sum(call_.layout.head(0, i),
                 {call_.head_high[sequence * count + i], call_.head_low[sequence * count + i]});
    }
    for (int64_t head = warp::lane(); head < heads; head += 32) {
      const int64_t score = call_.head_max_score[sequence * heads + head];
      if (score != 0) warp::raise(call_.words + call_.layout.max_score(head), score);
    }
  }

  /// See Note [Standard errors].
  MOETAP_DEVICE void add_variances(int64_t sequence) const {
    if (lines_.row(sequence) < 0) return;
    const int32_t lane = warp::lane();
    const bool has_column = lane < static_cast<int32_t>(call_.layout.num_columns());
    const int64_t begin = sequence * call_.num_queries, end = begin + call_.num_queries;
    const auto value = [&](int64_t line) { return double{has_column ? lines_.values(line).values[lane] : 0}; };
    int32_t counts[kNumAttentionCounters] = {};
    double mean = 0, squares = 0;
    for_rows(begin, end, counts, [&](int64_t line) { mean += value(line); });
    const double count = counts[kMeasuredRows], weight = call_.weight[sequence];
    if (count < 2) return;
    mean /= count;
    for_rows(begin, end, counts, [&](int64_t line) {
      const double away = value(line) - mean;
      squares += away * away;
    });
    const double scale = count * weight * (weight - 1) / (count - 1);
    if (has_column) add_to_sum(call_.layout.variance(lane), to_fixed_point(squares * scale));
  }

  MOETAP_DEVICE void add_to_sum(int64_t sum, const FixedPoint& term) const {
    add_shared(call_.words, call_.layout.high(sum), call_.layout.low(sum), term);
  }

  const AttentionSumsArguments& call_;
  const LinesOfSums lines_;
  const int32_t num_regions_;
  int64_t* flow_;  // of this warp: high limbs [R, R], then low ones
};

/// `add_experts`.
class ExpertSumsAdder {
 public:
  MOETAP_DEVICE explicit ExpertSumsAdder(const AttentionSumsArguments& call)
      : call_(call),
        lines_(call),
        expert_(static_cast<int32_t>(warp::block() / call.parts)),
        part_(static_cast<int32_t>(warp::block() % call.parts)),
        count_(static_cast<int32_t>(call.layout.expert_sums())),
        num_regions_(static_cast<int32_t>(call.layout.num_regions)),
        high_(warp::shared_memory() + int64_t{warp::warp_of_block()} * 2 * count_) {}

  MOETAP_DEVICE void run() {
    clear();
    const int64_t begin = part_ * call_.slots_of_part;
    const int64_t end = begin + call_.slots_of_part < call_.num_slots ? begin + call_.slots_of_part : call_.num_slots;
    int64_t unassigned = 0, out_of_range = 0;
    for (int64_t first = begin + 32 * warp::warp_of_block(); first < end; first += 32 * kWarpsOfSums) {
      const int64_t slot = first + warp::lane();
      const int64_t id = slot < end ? this->id(slot) : kBeyond;
      if (expert_ == 0) {  // one block counts for all
        const bool none = id != kBeyond && (id < 0 || id >= call_.layout.num_experts) && counts(slot / call_.top_k);
        unassigned += warp::count_bits(warp::ballot(none));
      }
      for (unsigned hits = warp::ballot(id == expert_); hits != 0; hits &= hits - 1) {
        if (!add(first + warp::lowest_bit(hits))) ++out_of_range;
      }
    }
    if (warp::lane() == 0) {
      int64_t* counters = call_.words + call_.layout.shared_begin();
      if (unassigned != 0) warp::add(counters + kUnassignedSlots, unassigned);
      if (out_of_range != 0) warp::add(counters + kWeightsOutOfRange, out_of_range);
    }
    warp::wait_for_block();
    const int64_t sum = call_.layout.expert(expert_);
    for (int32_t i = warp::thread_of_block(); i < count_; i += kThreadsOfSums) {
      FixedPoint total;
      for (int32_t of = 0; of < kWarpsOfSums; ++of) {
        const int64_t* high = warp::shared_memory() + int64_t{of} * 2 * count_;
        add_own(&total.hi, &total.lo, {high[i], high[count_ + i]});
      }
      add_shared(call_.words, call_.layout.high(sum + i), call_.layout.low(sum + i), total);
    }
  }

 private:
  static constexpr int64_t kBeyond = std::numeric_limits<int64_t>::min();
  // Lanes of a slot's first terms: scalars, the plane, the row of the flow; of its second: the row of the pattern, and
  // its weight.
  static constexpr int32_t kPlaneLane = kNumExpertScalars, kFlowLane = kPlaneLane + kNumPlaneTerms;
  static constexpr int32_t kPatternWeightLane = kPatternBins;
  static_assert(kFlowLane + kMaxAttentionRegions <= 32 && kPatternWeightLane < 32);

  MOETAP_DEVICE int64_t id(int64_t slot) const {
    return call_.selected_is_long ? static_cast<const int64_t*>(call_.selected)[slot]
                                  : int64_t{static_cast<const int32_t*>(call_.selected)[slot]};
  }
  MOETAP_DEVICE double gate(int64_t slot) const {
    if (call_.weights.data == nullptr) return 1;
    if (call_.weights.type == AttentionElement::kDouble) return static_cast<const double*>(call_.weights.data)[slot];
    return element(call_.weights, slot);
  }
  MOETAP_DEVICE bool counts(int64_t line) const {
    return call_.line[line] == kRow && lines_.row(line / call_.num_queries) >= 0;
  }

  /// Where this lane's first and second term of a row go to, among the sums of the expert; -1: it has none.
  MOETAP_DEVICE int32_t first_sum(int32_t region) const {
    const int32_t lane = warp::lane();
    if (lane < kPlaneLane) return lane;
    if (lane < kFlowLane) return static_cast<int32_t>(call_.layout.expert_observed(0)) + lane - kPlaneLane;
    if (lane - kFlowLane >= num_regions_) return -1;
    return static_cast<int32_t>(call_.layout.expert_flow(region, lane - kFlowLane));
  }
  MOETAP_DEVICE int32_t second_sum(int32_t bin) const {
    const int32_t lane = warp::lane();
    if (lane < kPatternBins) return static_cast<int32_t>(call_.layout.pattern(bin, lane));
    return lane == kPatternWeightLane ? static_cast<int32_t>(call_.layout.pattern_weight(bin)) : -1;
  }

  /// Each lane what it owns.
  MOETAP_DEVICE void clear() const {
    for (int32_t region = 0; region < num_regions_; ++region) clear(first_sum(region));
    for (int32_t bin = 0; bin < kPatternBins; ++bin) clear(second_sum(bin));
  }
  MOETAP_DEVICE void clear(int32_t sum) const {
    if (sum >= 0) high_[sum] = high_[count_ + sum] = 0;
  }

  /// False: the weight is out of range.
  MOETAP_DEVICE bool add(int64_t slot) const {
    const int64_t line = slot / call_.top_k;
    if (!counts(line)) return true;
    const AttentionRowValues row = lines_.values(line);
    const float distance = row.values[kDistance], entropy = row.values[kEntropy];
    const float received = row.values[received_column(num_regions_)];
    const double weight = gate(slot) * call_.weight[line / call_.num_queries];
    if (!in_range(weight * fmaxf(fmaxf(1.0F, distance), fmaxf(entropy, received)))) return false;
    const int32_t lane = warp::lane();
    double factor = lane == kGateMass         ? 1
                    : lane == kExpertDistance ? distance
                    : lane == kExpertEntropy  ? entropy
                                              : received;
    if (lane >= kPlaneLane) factor = lane < kFlowLane ? row.plane_term(lane - kPlaneLane) : 0;
    if (lane >= kFlowLane && lane - kFlowLane < num_regions_) factor = row.values[kFirstRegion + lane - kFlowLane];
    add(first_sum(call_.region[line]), weight * factor);
    add(second_sum(row.query_bin()), lane < kPatternBins ? weight * row.bins[lane] : weight);
    return true;
  }
  MOETAP_DEVICE void add(int32_t sum, double term) const {
    if (sum >= 0) add_own(high_ + sum, high_ + count_ + sum, to_fixed_point(term));
  }

  const AttentionSumsArguments& call_;
  const LinesOfSums lines_;
  const int32_t expert_, part_;
  const int32_t count_;  // sums of an expert
  const int32_t num_regions_;
  int64_t* high_;  // of this warp: the high limbs of the expert's sums, then the low ones
};

}  // namespace moetap::analysis::attention_kernel
