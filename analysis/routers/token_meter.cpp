#include "analysis/routers/token_meter.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "analysis/numbers/fixed_point.h"
#include "analysis/routers/host_planes.h"

namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
static_assert(kMaxGroup == kLanes, "slots are ranked with a token a lane");

void count_term(int64_t* row, RowScalarSum which, bool in_range, int64_t count = 1) {
  row[RouterSumsLayout::scalar_sum(which) + (in_range ? kTermsAdded : kTermsOutOfRange)] += count;
}

bool is_short(double weight) {
  return std::abs(weight) <= kMaxShortWeight;
}

// The two below have loops without comparisons, which the compiler makes vectors of: the sign bit of a difference
// tells.

template <typename Id>
bool are_experts(const Id* ids, int64_t count, int64_t num_experts) {
  using Bits = std::make_unsigned_t<Id>;
  const Bits last = static_cast<Bits>(num_experts - 1);
  Bits misfits = 0;
  for (int64_t i = 0; i < count; ++i) misfits |= static_cast<Bits>(ids[i]) | (last - static_cast<Bits>(ids[i]));
  return static_cast<Id>(misfits) >= 0;
}

/// Whether all weights are short and not 0.
template <typename Weight>
bool are_short(const Weight* weights, int64_t count) {
  using Bits = std::conditional_t<sizeof(Weight) == 4, uint32_t, uint64_t>;
  constexpr Bits kSign = Bits{1} << (8 * sizeof(Bits) - 1);
  constexpr Bits kLimit = std::bit_cast<Bits>(static_cast<Weight>(kMaxShortWeight));
  Bits misfits = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Bits size = std::bit_cast<Bits>(weights[i]) & ~kSign;  // ordered as the numbers, infinity and NaN beyond
    misfits |= (size - 1) | (kLimit - size);
  }
  return (misfits & kSign) == 0;
}

// Note [Pairs of several tokens]
// To add 1 to each pair of a token's experts takes some 5 cycles a pair, for the additions of few experts wait for each
// other. Where experts are few, up to 64 tokens are gathered: of each expert the set of tokens that chose it. The two
// sets of a pair have as many tokens in common as chose both.
constexpr int64_t kMaxGathered = 64;
constexpr int64_t kSpeedup = 4;  // of a pair of sets over a pair of a token

bool pays_to_gather(const RouterSumsLayout& layout, int64_t num_tokens) {
  const int64_t pairs_of_token = layout.top_k * (layout.top_k - 1) / 2;
  return layout.pair_words() <= std::min(num_tokens, kMaxGathered) * pairs_of_token * kSpeedup;
}

}  // namespace

TokenMeter::TokenMeter(const HostRouterCall& call, const HostTokenOutputs& outputs, const RouterSumsLayout& layout,
                       int64_t* pairs, int64_t num_tokens, MeterMemory& memory)
    : call_(call),
      outputs_(outputs),
      layout_(layout),
      pairs_(pairs),
      kernels_(token_kernels()),
      memory_(memory),
      experts_size_(padded_size(layout.num_experts)),
      gathers_pairs_(pairs != nullptr && pays_to_gather(layout, num_tokens)) {
  const auto grow = [](auto& values, int64_t size) {
    if (static_cast<int64_t>(values.size()) < size) values.resize(size);
  };
  const int64_t top_k = std::max<int64_t>(1, layout.top_k);
  grow(memory.experts, kMaxGroup * experts_size_ / kLanes);
  grow(memory.weights, top_k);
  grow(memory.weight_experts, top_k);
  grow(memory.units, kMaxGroup * top_k);
  grow(memory.widened, top_k);
  grow(memory.chosen, kMaxGroup * top_k);
  grow(memory.is_chosen, layout.num_experts / 64 + 1);
  if (gathers_pairs_) grow(memory.choosers, layout.num_experts);
}

void TokenMeter::add(const MeteredToken* tokens, int64_t count) {
  tokens_ = tokens;
  count_ = count;
  for (int64_t token = 0; token < count; ++token) ++tokens[token].row[RouterSumsLayout::counter(kTokens)];
  add_probabilities();
  add_scores();
  add_slots();
  add_terms();
}

int64_t TokenMeter::end_of_row(int64_t begin) const {
  int64_t end = begin + 1;
  while (end < count_ && tokens_[end].row == tokens_[begin].row) ++end;
  return end;
}

void TokenMeter::set_terms(RowScalarSum which, const double* values, const bool* in_range) {
  Terms& terms = terms_[which];
  terms.are_asked = true;
  for (int64_t token = 0; token < kMaxGroup; ++token) {
    terms.in_range[token] = (in_range == nullptr || in_range[token]) && analysis::in_range(values[token]);
    values_[which * kMaxGroup + token] = terms.in_range[token] ? values[token] : 0;
  }
}

void TokenMeter::add_terms() {
  int64_t high[kNumTerms * kMaxGroup], low[kNumTerms * kMaxGroup];
  kernels_.to_limbs(values_, kNumTerms * kMaxGroup, high, low);
  for (int64_t begin = 0, end = 0; begin < count_; begin = end) {
    end = end_of_row(begin);
    for (int64_t which = 0; which < kNumTerms; ++which) {
      const Terms& terms = terms_[which];
      if (!terms.are_asked) continue;
      int64_t sum_high = 0, sum_low = 0, num_added = 0;
      for (int64_t token = begin; token < end; ++token) {
        sum_high += high[which * kMaxGroup + token];
        sum_low += low[which * kMaxGroup + token];
        num_added += terms.in_range[token];
      }
      int64_t* sum = tokens_[begin].row + RouterSumsLayout::scalar_sum(static_cast<RowScalarSum>(which));
      sum[kHighLimb] += sum_high;
      sum[kLowLimb] += sum_low;
      sum[kTermsAdded] += num_added;
      sum[kTermsOutOfRange] += end - begin - num_added;
    }
  }
}

void TokenMeter::add_probabilities() {
  const int64_t num_experts = layout_.num_experts;
  const bool has_probabilities = call_.probabilities.defined();
  const auto read = [&](const HostPlane& plane) {
    const RealFormat format = format_of(plane);
    for (int64_t token = 0; token < count_; ++token) {
      kernels_.widen(values_of(plane, tokens_[token].token), format, num_experts, experts(token));
    }
  };
  if (call_.logits.defined()) {
    int64_t* sums[kMaxGroup] = {};
    for (int64_t token = 0; token < count_ && !has_probabilities; ++token) sums[token] = vector(token, kProbabilityLow);
    SoftmaxTerms terms;
    read(call_.logits);
    kernels_.softmax(experts(0), num_experts, count_, sums, terms);
    double squares[kMaxGroup];
    for (int64_t token = 0; token < kMaxGroup; ++token) {
      squares[token] = terms.log_sum_exp[token] * terms.log_sum_exp[token];
    }
    set_terms(kLseSquared, squares, terms.in_range);
    if (!has_probabilities) {
      set_terms(kEntropyAll, terms.entropy, terms.in_range);
      count_distributions(terms.in_range, terms.largest);
    }
  }
  if (has_probabilities) {
    EntropyTerms terms;
    read(call_.probabilities);
    kernels_.entropy(experts(0), num_experts, count_, kMaxProbability, terms);
    int64_t largest[kMaxGroup] = {};
    for (int64_t token = 0; token < count_; ++token) {
      if (!terms.in_range[token]) continue;
      largest[token] = kernels_.largest(experts(token), num_experts);
      kernels_.add_fixed_point(experts(token), num_experts, 1, vector(token, kProbabilityLow));
    }
    set_terms(kEntropyAll, terms.entropy, terms.in_range);
    count_distributions(terms.in_range, largest);
  }
}

void TokenMeter::count_distributions(const bool* in_range, const int64_t* largest) {
  for (int64_t token = 0; token < count_; ++token) {
    count_term(tokens_[token].row, kProbability, in_range[token]);
    if (in_range[token]) ++vector(token, kTopProbability)[largest[token]];
  }
}

void TokenMeter::add_scores() {
  if (!call_.sigmoid_scores || !(call_.scores.defined() || call_.logits.defined())) return;
  const HostPlane& plane = call_.scores.defined() ? call_.scores : call_.logits;
  for (int64_t token = 0; token < count_; ++token) {
    kernels_.widen(values_of(plane, tokens_[token].token), format_of(plane), layout_.num_experts, experts(token));
    if (!call_.scores.defined()) kernels_.sigmoid(experts(token), layout_.num_experts);
  }
  EntropyTerms terms;
  kernels_.entropy(experts(0), layout_.num_experts, count_, kInfinity, terms);
  set_terms(kScoreEntropy, terms.entropy, terms.in_range);
}

void TokenMeter::add_slots() {
  read_slots();
  rank_slots();
  for (int64_t token = 0; token < count_; ++token) {
    int64_t num_chosen = layout_.top_k;
    if (slots_[token].are_plain) {
      add_plain_slots(token);
    } else {
      num_chosen = add_other_slots(token);
    }
    if (num_chosen == 0) ++tokens_[token].row[RouterSumsLayout::counter(kDroppedTokens)];
    if (gathers_pairs_) {
      gather_pairs(token, num_chosen);
    } else if (pairs_ != nullptr) {
      add_pairs(token, num_chosen);
    }
  }
}

void TokenMeter::read_slots() {
  const HostPlane& weights = call_.weights;
  const bool is_float = weights.dtype == c10::ScalarType::Float, is_double = weights.dtype == c10::ScalarType::Double;
  for (int64_t token = 0; token < count_; ++token) {
    const int64_t place = tokens_[token].token;
    const void* ids = values_of(call_.selected, place);
    const auto read = [&](const auto* of_token) {
      slots_[token] = call_.selected.dtype == c10::ScalarType::Int
                          ? read_slots(token, static_cast<const int32_t*>(ids), of_token)
                          : read_slots(token, static_cast<const int64_t*>(ids), of_token);
    };
    if (!weights.defined()) {
      read(static_cast<const double*>(nullptr));
    } else if (is_float) {
      read(static_cast<const float*>(values_of(weights, place)));
    } else if (is_double) {
      read(static_cast<const double*>(values_of(weights, place)));
    } else {
      kernels_.widen(values_of(weights, place), format_of(weights), layout_.top_k, memory_.widened.data());
      read(static_cast<const double*>(memory_.widened.data()));
    }
  }
}

/// Writes the ids and weights of a token as they are recorded, and puts those slots first that hold an expert.
template <typename Id, typename Weight>
TokenMeter::ReadSlots TokenMeter::read_slots(int64_t token, const Id* ids, const Weight* weights) {
  const int64_t top_k = layout_.top_k, num_experts = layout_.num_experts, output = tokens_[token].token * top_k;
  int32_t* chosen = this->chosen(token);
  int32_t* written_ids = outputs_.selected == nullptr ? nullptr : outputs_.selected + output;
  float* written_weights = outputs_.weights == nullptr || weights == nullptr ? nullptr : outputs_.weights + output;
  double* lane_of_weights = memory_.weights.data()->values + token;
  double* lane_of_experts = memory_.weight_experts.data()->values + token;
  if (written_weights != nullptr) {
    for (int64_t slot = 0; slot < top_k; ++slot) written_weights[slot] = static_cast<float>(weights[slot]);
  }
  if (are_experts(ids, top_k, num_experts) && (weights == nullptr || are_short(weights, top_k))) {
    for (int64_t slot = 0; slot < top_k; ++slot) chosen[slot] = static_cast<int32_t>(ids[slot]);
    if (written_ids != nullptr) std::copy_n(chosen, top_k, written_ids);
    for (int64_t slot = 0; slot < top_k && weights != nullptr; ++slot) {
      lane_of_weights[slot * kMaxGroup] = weights[slot];
      lane_of_experts[slot * kMaxGroup] = static_cast<double>(ids[slot]);
    }
    return {top_k, 0, true};
  }

  ReadSlots slots{0, 0, false};
  for (int64_t slot = 0; slot < top_k; ++slot) {
    const Id id = ids[slot];
    const bool is_used = is_expert(id, num_experts);
    if (written_ids != nullptr) written_ids[slot] = is_used ? static_cast<int32_t>(id) : -1;
    if (!is_used) {
      slots.num_invalid += id != -1;
      continue;
    }
    const int64_t place = slots.num_used++;
    chosen[place] = static_cast<int32_t>(id);
    lane_of_weights[place * kMaxGroup] = weights == nullptr ? 0 : weights[slot];
    lane_of_experts[place * kMaxGroup] = static_cast<double>(id);
  }
  for (int64_t place = slots.num_used; place < top_k; ++place) {
    lane_of_weights[place * kMaxGroup] = 0;
    lane_of_experts[place * kMaxGroup] = kInfinity;
  }
  return slots;
}

void TokenMeter::rank_slots() {
  const auto write_first = [&](int64_t token, int32_t first) {
    outputs_.first_slot[tokens_[token].token] = first;
    if (first != kNoSlot) ++vector(token, kFirstSlot)[first];
  };
  if (!call_.weights.defined()) {
    for (int64_t token = 0; token < count_; ++token) {
      write_first(token, slots_[token].num_used > 0 ? chosen(token)[0] : kNoSlot);
    }
    return;
  }
  RankTerms terms;
  kernels_.rank(memory_.weights.data()->values, memory_.weight_experts.data()->values, layout_.top_k,
                memory_.units.data(), terms);
  set_terms(kEntropyTopk, terms.entropies.entropy, terms.entropies.in_range);
  double margins[kMaxGroup] = {};
  for (int64_t token = 0; token < count_; ++token) {
    const int64_t num_used = slots_[token].num_used;
    write_first(token, num_used > 0 ? static_cast<int32_t>(terms.first[token]) : kNoSlot);
    const double largest = num_used > 0 ? terms.largest[token] : 0, second = num_used > 1 ? terms.second[token] : 0;
    margins[token] = largest - second;
    if (outputs_.margins == nullptr) continue;
    // Of the weights as they are recorded, in float32.
    outputs_.margins[tokens_[token].token] = static_cast<float>(largest) - static_cast<float>(second);
  }
  if (call_.has_margins()) set_terms(kMargin, margins, nullptr);
}

void TokenMeter::add_plain_slots(int64_t token) {
  const int64_t top_k = layout_.top_k;
  const int32_t* experts = chosen(token);
  int64_t* selected = vector(token, kSelected);
  for (int64_t slot = 0; slot < top_k; ++slot) ++selected[experts[slot]];
  if (!call_.weights.defined()) return;
  int64_t* sum_low = vector(token, kWeightLow);
  for (int64_t slot = 0; slot < top_k; ++slot) sum_low[experts[slot]] += unit(token, slot);
  count_term(tokens_[token].row, kWeight, true, top_k);
}

/// Leaves the experts with nonzero weight in `chosen`, and returns how many.
int64_t TokenMeter::add_other_slots(int64_t token) {
  const ReadSlots& slots = slots_[token];
  int32_t* experts = chosen(token);
  int64_t* selected = vector(token, kSelected);
  tokens_[token].row[RouterSumsLayout::counter(kInvalidIds)] += slots.num_invalid;
  int64_t num_chosen = 0, num_in_range = 0;
  for (int64_t slot = 0; slot < slots.num_used; ++slot) {
    const int32_t expert = experts[slot];
    const double weight = call_.weights.defined() ? this->weight(token, slot) : 1;
    if (weight == 0) {
      ++vector(token, kZeroWeight)[expert];
      continue;
    }
    ++selected[expert];
    experts[num_chosen++] = expert;
    if (!call_.weights.defined() || !analysis::in_range(weight)) continue;
    ++num_in_range;
    const FixedPoint term = is_short(weight) ? FixedPoint{0, unit(token, slot)} : to_fixed_point(weight);
    vector(token, kWeightHigh)[expert] += term.hi;
    vector(token, kWeightLow)[expert] += term.lo;
  }
  if (!call_.weights.defined()) return num_chosen;
  count_term(tokens_[token].row, kWeight, true, num_in_range);
  count_term(tokens_[token].row, kWeight, false, num_chosen - num_in_range);
  return num_chosen;
}

/// Adds the pairs of the chosen experts, each expert once. They are sorted by a set of bits: the order of a token's
/// slots is a toss, and comparing them would mispredict many branches.
void TokenMeter::add_pairs(int64_t token, int64_t num_chosen) {
  int32_t* experts = chosen(token);
  uint64_t* words = memory_.is_chosen.data();
  for (int64_t i = 0; i < num_chosen; ++i) words[experts[i] >> 6] |= uint64_t{1} << (experts[i] & 63);
  int64_t num_sorted = 0;
  for (int64_t word = 0; word * 64 < layout_.num_experts; ++word) {
    uint64_t bits = words[word];
    words[word] = 0;
    for (; bits != 0; bits &= bits - 1) experts[num_sorted++] = static_cast<int32_t>(word * 64 + __builtin_ctzll(bits));
  }
  for (int64_t i = 0; i + 1 < num_sorted; ++i) {
    int64_t* pairs_of_one = pairs_ + layout_.pair_index(experts[i], 0);
    for (int64_t j = i + 1; j < num_sorted; ++j) ++pairs_of_one[experts[j]];
  }
}

void TokenMeter::gather_pairs(int64_t token, int64_t num_chosen) {
  const uint64_t bit = uint64_t{1} << num_gathered_;
  const int32_t* experts = chosen(token);
  for (int64_t i = 0; i < num_chosen; ++i) memory_.choosers[experts[i]] |= bit;
  if (++num_gathered_ == kMaxGathered) add_gathered_pairs();
}

void TokenMeter::add_gathered_pairs() {
  if (num_gathered_ == 0) return;
  kernels_.add_common(memory_.choosers.data(), layout_.num_experts, pairs_);
  std::fill_n(memory_.choosers.data(), layout_.num_experts, 0);
  num_gathered_ = 0;
}

}  // namespace moetap::analysis
