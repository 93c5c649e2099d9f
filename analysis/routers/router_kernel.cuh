#pragma once

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/warp.cuh"
#include "analysis/routers/router_kernel_arguments.h"
#include "analysis/routers/router_kernel_experts.cuh"
#include "analysis/routers/router_kernel_memory.h"
#include "analysis/routers/router_kernel_slots.cuh"

// Note [The router kernel]
// One launch measures a router call and adds it to the sums.
//
// Who owns what. A warp owns a run of neighbouring tokens and measures one after the other: lane l holds the experts
// l, l + 32, ... of the token in registers, and its slot l. So logits, ids and weights are read once. One warp computes
// all values of a token in one order, so their bits do not depend on the launch; across tokens only integers are added.
// Tokens are visited row by row, whatever their order in memory, so that most runs lie in one row.
//
// Where sums are kept. Sums of probabilities and the scalar sums stay in registers while the row stays the same. At the
// end of its run a warp writes them to its slice of shared memory, if the row is the one that its block began with, and
// the block adds up the slices: one addition to memory an expert and block. Where rows change within a run, as in a
// step of generation, sums go to memory at each change. Counts by expert are added in shared memory for the block's row
// (32 bits are enough for a block's tokens), else in memory. Sums that are spread over many addresses are added in
// memory directly: gate weights, pairs of many experts, transitions.
//
// Repeats. A warp knows the first slot of the token before; at its first token of a row it looks back for it.
namespace moetap::analysis::router_kernel {

template <int kExperts>
class RouterMeter {
 public:
  MOETAP_DEVICE explicit RouterMeter(const RouterKernelArguments& call)
      : call_(call),
        layout_{call.num_experts, call.top_k, call.num_rows},
        memory_{call.num_experts, warp::threads_of_block() / 32, call.has_pairs} {
    slice_ = warp::shared_memory() + warp::warp_of_block() * memory_.slice_words();
    counts_ = reinterpret_cast<int32_t*>(warp::shared_memory() + memory_.num_warps * memory_.slice_words());
    pairs_ = counts_ + BlockMemoryLayout::kNumCounts * call.num_experts;
    clear();
  }

  MOETAP_DEVICE void run() {
    const int64_t tokens_of_block = call_.tokens_of_warp * memory_.num_warps;
    const int64_t block_begin = warp::block() * tokens_of_block;
    block_row_ = first_row(block_begin, block_begin + tokens_of_block);
    const int32_t words = BlockMemoryLayout::kNumCounts * call_.num_experts + memory_.num_pairs();
    for (int32_t i = warp::thread_of_block(); i < words; i += warp::threads_of_block()) counts_[i] = 0;
    warp::wait_for_block();

    const int64_t begin = block_begin + warp::warp_of_block() * call_.tokens_of_warp;
    const int64_t end =
        begin + call_.tokens_of_warp < call_.num_tokens ? begin + call_.tokens_of_warp : call_.num_tokens;
    for (int64_t n = begin; n < end; ++n) {
      const Place at = place(n);
      if (at.row == kMasked) continue;
      if (at.row != row_) {
        add_to_memory();
        row_ = at.row;
        first_before_ = first_slot_before(n, at.row);
      }
      measure(at.token);
    }
    const bool in_block_row = row_ == block_row_ && row_ != kMasked;
    if (!in_block_row) add_to_memory();
    write_slice(in_block_row);
    warp::wait_for_block();
    if (block_row_ != kMasked) add_block_to_memory();
    if (memory_.holds_pairs()) add_pairs_to_memory();
  }

 private:
  static constexpr int64_t kMasked = -1;
  static constexpr int32_t kNoTokenBefore = -2;
  static constexpr int64_t kRoundingBits = 0x4338000000000000;  // of 1.5 * 2^52

  struct Place {
    int64_t token;
    int64_t row;  // kMasked: of no row
  };

  /// The n-th token that is visited.
  MOETAP_DEVICE Place place(int64_t n) const {
    if (n >= call_.num_tokens) return {n, kMasked};
    if (call_.row != nullptr) {
      const int64_t row = call_.row[n * call_.row_stride];
      return {n, row >= 0 && row < call_.num_rows ? row : kMasked};
    }
    const int64_t tokens_of_row = call_.num_tokens / call_.num_rows;
    const int64_t row = n / tokens_of_row;
    const int64_t token = call_.interleaved ? (n - row * tokens_of_row) * call_.num_rows + row : n;
    const bool is_valid = call_.valid == nullptr || call_.valid[token * call_.valid_stride];
    return {token, is_valid ? row : kMasked};
  }

  /// The row of the first valid token among those that are visited from `begin` to `end`.
  MOETAP_DEVICE int64_t first_row(int64_t begin, int64_t end) const {
    for (int64_t n = begin; n < end && n < call_.num_tokens; n += 32) {
      const int64_t mine = n + warp::lane();
      const unsigned found = warp::ballot(mine < end && place(mine).row != kMasked);
      if (found != 0) return place(n + warp::lowest_bit(found)).row;
    }
    return kMasked;
  }

  /// The first slot of the last valid token of `row` before the n-th.
  MOETAP_DEVICE int32_t first_slot_before(int64_t n, int64_t row) const {
    // Rows of equally many tokens begin at a known place.
    const int64_t first = call_.row != nullptr ? 0 : row * (call_.num_tokens / call_.num_rows);
    for (int64_t end = n; end > first; end -= 32) {
      const int64_t mine = end - 1 - warp::lane();
      const unsigned found = warp::ballot(mine >= first && place(mine).row == row);
      if (found == 0) continue;
      return rank_slots(call_, slot_of_lane(call_, place(end - 1 - warp::lowest_bit(found)).token)).first;
    }
    return kNoTokenBefore;
  }

  MOETAP_DEVICE void clear() {
    MOETAP_UNROLL
    for (int i = 0; i < kExperts; ++i) probabilities_[i] = 0;
    num_probabilities_ = 0;
    counter_ = 0;
    high_ = low_ = 0;
    terms_added_ = terms_out_of_range_ = 0;
  }

  MOETAP_DEVICE void measure(int64_t token) {
    count(kTokens, 1);
    measure_scores(token);
    measure_probabilities(token);
    measure_slots(token);
  }

  /// Lane `which` keeps the counter.
  MOETAP_DEVICE void count(RowCounter which, int32_t number) {
    if (warp::lane() == which) counter_ += number;
  }

  /// Lane `which` keeps the scalar sum.
  MOETAP_DEVICE void count_terms(RowScalarSum which, int32_t added, int32_t out_of_range) {
    if (warp::lane() != which) return;
    terms_added_ += added;
    terms_out_of_range_ += out_of_range;
  }
  MOETAP_DEVICE void add_term(RowScalarSum which, bool fits, double value) {
    fits = fits && in_range(value);
    count_terms(which, fits, !fits);
    if (!fits || warp::lane() != which) return;
    const FixedPoint term = to_fixed_point(value);
    high_ += term.hi;
    low_ += term.lo;
  }

  MOETAP_DEVICE int64_t* row_words() const { return call_.words + row_ * layout_.row_words(); }

  MOETAP_DEVICE void count_expert(RowVector which, int64_t expert) const {
    if (row_ == block_row_) {
      warp::add(counts_ + which * call_.num_experts + expert, 1);
    } else {
      warp::add(row_words() + layout_.vector(which) + expert, int64_t{1});
    }
  }

  MOETAP_DEVICE void measure_scores(int64_t token) {
    if (call_.scores.data == nullptr && !call_.scores_are_logits) return;
    ExpertValues<kExperts> experts;
    if (call_.scores.data != nullptr) {
      experts.read(call_.scores, token, call_.num_experts, 0);
    } else {
      experts.read(call_.logits, token, call_.num_experts, -kInfinity);  // which has the sigmoid 0
      MOETAP_UNROLL
      for (double& value : experts.values) value = sigmoid(value);
    }
    const EntropyOfToken score = entropy_of_token<kExperts>([&](int i) { return experts.values[i]; });
    add_term(kScoreEntropy, score.in_range, score.entropy);
  }

  MOETAP_DEVICE void measure_probabilities(int64_t token) {
    ExpertValues<kExperts> experts;
    if (call_.logits.data != nullptr) {
      experts.read(call_.logits, token, call_.num_experts, -kInfinity);
      const SoftmaxOfToken softmax = softmax_of_token(experts, call_.num_experts);
      add_term(kLseSquared, softmax.in_range, softmax.log_sum_exp * softmax.log_sum_exp);
      if (call_.probabilities.data == nullptr) {
        add_distribution(experts, softmax.in_range, softmax.entropy, softmax.largest);
      }
    }
    if (call_.probabilities.data == nullptr) return;
    experts.read(call_.probabilities, token, call_.num_experts, 0);
    bool fits = true;
    MOETAP_UNROLL
    for (const double p : experts.values) fits = fits && p >= 0 && p <= kMaxProbability;
    fits = warp::ballot(!fits) == 0;
    const int32_t largest = experts.largest().expert;
    const EntropyOfToken entropy = entropy_of_token<kExperts>([&](int i) { return experts.values[i]; });
    add_distribution(experts, fits && entropy.in_range, entropy.entropy, largest);
  }

  MOETAP_DEVICE void add_distribution(const ExpertValues<kExperts>& experts, bool fits, double entropy,
                                      int32_t largest) {
    add_term(kEntropyAll, fits, entropy);
    count_terms(kProbability, fits, !fits);
    if (!fits) return;
    // As to_fixed_point, without limbs: the rounded integer is left in the low bits, whose offset is taken off at the
    // end.
    MOETAP_UNROLL
    for (int i = 0; i < kExperts; ++i) {
      probabilities_[i] +=
          static_cast<uint64_t>(std::bit_cast<int64_t>(experts.values[i] * kFixedPointScale + 0x1.8p52));
    }
    ++num_probabilities_;
    if (warp::lane() == 0) count_expert(kTopProbability, largest);
  }

  MOETAP_DEVICE void measure_slots(int64_t token) {
    const int lane = warp::lane();
    const bool weighted = call_.weights.data != nullptr;
    const Slot slot = slot_of_lane(call_, token);
    const RankedSlots ranked = rank_slots(call_, slot);
    const bool chosen = slot.used && (!weighted || slot.weight != 0);
    const unsigned choosers = warp::ballot(chosen);
    count(kInvalidIds, warp::count_bits(warp::ballot(!slot.used && slot.id != -1)));
    count(kDroppedTokens, choosers == 0);
    if (chosen) count_expert(kSelected, slot.id);
    if (slot.used && !chosen) count_expert(kZeroWeight, slot.id);
    if (weighted) measure_weights(slot, chosen, ranked);
    if (lane == 0 && ranked.first != kTokenWithoutSlot) count_expert(kFirstSlot, ranked.first);
    if (call_.has_pairs) {
      for_each_pair(call_.top_k, slot.id, chosen, [&](int64_t i, int64_t j) {
        const int64_t pair = layout_.pair_index(i, j);
        if (memory_.holds_pairs()) {
          warp::add(pairs_ + pair, 1);
        } else {
          warp::add(call_.words + layout_.pairs_begin() + pair, int64_t{1});
        }
      });
    }
    if (ranked.first != kTokenWithoutSlot && first_before_ >= 0) {
      count(kRepeatPairs, 1);
      count(kRepeatHits, ranked.first == first_before_);
    }
    first_before_ = ranked.first;
    write_token(token, slot, ranked);
  }

  MOETAP_DEVICE void measure_weights(const Slot& slot, bool chosen, const RankedSlots& ranked) {
    const bool fits = in_range(slot.weight);
    count_terms(kWeight, warp::count_bits(warp::ballot(chosen && fits)),
                warp::count_bits(warp::ballot(chosen && !fits)));
    if (chosen && fits) {
      const FixedPoint term = to_fixed_point(slot.weight);
      int64_t* words = row_words();
      if (term.hi != 0) warp::add(words + layout_.vector(kWeightHigh) + slot.id, term.hi);
      if (term.lo != 0) warp::add(words + layout_.vector(kWeightLow) + slot.id, term.lo);
    }
    const EntropyOfToken entropy =
        entropy_of_token<1>([&](int) { return slot.used ? slot.weight : 0.0; }, slot_width(call_.top_k));
    add_term(kEntropyTopk, entropy.in_range, entropy.entropy);
    if (call_.top_k > 1) add_term(kMargin, true, ranked.margin());
  }

  MOETAP_DEVICE void write_token(int64_t token, const Slot& slot, const RankedSlots& ranked) const {
    const int lane = warp::lane();
    if (lane < call_.top_k) {
      const int64_t place = token * call_.top_k + lane;
      if (call_.selected_out != nullptr) call_.selected_out[place] = slot.used ? static_cast<int32_t>(slot.id) : -1;
      if (call_.weights_out != nullptr) call_.weights_out[place] = static_cast<float>(slot.weight);
    }
    if (lane != 0) return;
    if (call_.first_slot_out != nullptr) call_.first_slot_out[token] = ranked.first;
    if (call_.margins_out != nullptr) call_.margins_out[token] = ranked.recorded_margin();
    if (call_.first_slot_before == nullptr) return;
    const int32_t before = call_.first_slot_before[token];
    if (ranked.first >= 0 && before >= 0 && before < call_.num_experts_before) {
      warp::add(call_.transitions + int64_t{before} * call_.num_experts + ranked.first, int64_t{1});
    }
  }

  MOETAP_DEVICE uint64_t probability_sum(int i) const {
    return probabilities_[i] - static_cast<uint64_t>(num_probabilities_) * static_cast<uint64_t>(kRoundingBits);
  }

  MOETAP_DEVICE static void add_limbs(int64_t* high, int64_t* low, uint64_t sum) {
    const auto hi = static_cast<int64_t>(sum >> kLimbBits), lo = static_cast<int64_t>(sum) & kLimbMask;
    if (hi != 0) warp::add(high, hi);
    if (lo != 0) warp::add(low, lo);
  }

  /// Calls put(word of the row's head, value) for the words that this lane keeps.
  template <typename Put>
  MOETAP_DEVICE void for_head(const Put& put) const {
    const int lane = warp::lane();
    if (lane < kNumRowCounters) put(lane, counter_);
    if (lane >= kNumScalarSums) return;
    const int64_t sum = RouterSumsLayout::scalar_sum(static_cast<RowScalarSum>(lane));
    put(sum + kHighLimb, high_);
    put(sum + kLowLimb, low_);
    put(sum + kTermsAdded, terms_added_);
    put(sum + kTermsOutOfRange, terms_out_of_range_);
  }

  /// Adds the sums in registers to the row's sums in memory and clears them.
  MOETAP_DEVICE void add_to_memory() {
    if (row_ == kMasked) return;
    int64_t* words = row_words();
    for_head([&](int64_t word, int64_t value) {
      if (value != 0) warp::add(words + word, value);
    });
    MOETAP_UNROLL
    for (int i = 0; i < kExperts; ++i) {
      const int expert = ExpertValues<kExperts>::expert(i);
      if (expert >= call_.num_experts) continue;
      add_limbs(words + layout_.vector(kProbabilityHigh) + expert, words + layout_.vector(kProbabilityLow) + expert,
                probability_sum(i));
    }
    clear();
  }

  /// Writes the sums in registers to shared memory; zeros if they do not belong to the block's row.
  MOETAP_DEVICE void write_slice(bool holds) const {
    for_head([&](int64_t word, int64_t value) { slice_[word] = holds ? value : 0; });
    MOETAP_UNROLL
    for (int i = 0; i < kExperts; ++i) {
      const int expert = ExpertValues<kExperts>::expert(i);
      if (expert >= call_.num_experts) continue;
      slice_[kRowHeadWords + expert] = holds ? static_cast<int64_t>(probability_sum(i)) : 0;
    }
  }

  MOETAP_DEVICE void add_block_to_memory() const {
    int64_t* words = call_.words + block_row_ * layout_.row_words();
    for (int32_t i = warp::thread_of_block(); i < memory_.slice_words(); i += warp::threads_of_block()) {
      uint64_t sum = 0;
      for (int32_t of = 0; of < memory_.num_warps; ++of) {
        sum += static_cast<uint64_t>(warp::shared_memory()[of * memory_.slice_words() + i]);
      }
      const int32_t expert = i - kRowHeadWords;
      if (expert >= 0) {
        add_limbs(words + layout_.vector(kProbabilityHigh) + expert, words + layout_.vector(kProbabilityLow) + expert,
                  sum);
      } else if (sum != 0) {
        warp::add(words + i, static_cast<int64_t>(sum));
      }
    }
    const int32_t num_counts = BlockMemoryLayout::kNumCounts * call_.num_experts;
    for (int32_t i = warp::thread_of_block(); i < num_counts; i += warp::threads_of_block()) {
      if (counts_[i] != 0) warp::add(words + layout_.vector(kSelected) + i, static_cast<int64_t>(counts_[i]));
    }
  }

  MOETAP_DEVICE void add_pairs_to_memory() const {
    for (int32_t i = warp::thread_of_block(); i < memory_.num_pairs(); i += warp::threads_of_block()) {
      if (pairs_[i] != 0) warp::add(call_.words + layout_.pairs_begin() + i, static_cast<int64_t>(pairs_[i]));
    }
  }

  const RouterKernelArguments& call_;
  const RouterSumsLayout layout_;
  const BlockMemoryLayout memory_;
  int64_t* slice_;   // of this warp
  int32_t* counts_;  // of the block, [4, E]
  int32_t* pairs_;   // of the block
  int64_t block_row_ = kMasked;

  int64_t row_ = kMasked;  // that the registers hold sums of
  int32_t first_before_ = kNoTokenBefore;
  uint64_t probabilities_[kExperts];  // bits of 1.5 * 2^52 + p * 2^40, summed
  int32_t num_probabilities_;
  int32_t counter_;     // lane c: RowCounter c
  int64_t high_, low_;  // lane s: RowScalarSum s
  int32_t terms_added_, terms_out_of_range_;
};

}  // namespace moetap::analysis::router_kernel
