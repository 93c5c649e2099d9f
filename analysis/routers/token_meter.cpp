#include "analysis/routers/token_meter.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/numbers/fixed_point.h"

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

// Note [Pairs of several tokens]
// To add 1 to each pair of a token's experts takes some 5 cycles a pair, for the additions of few experts wait for each
// other. Where experts are few, up to 64 tokens are gathered: of each expert the set of tokens that chose it. The two
// sets of a pair have as many tokens in common as chose both.
constexpr int64_t kMaxGathered = 64;

bool pays_to_gather(const RouterSumsLayout& layout, int64_t num_tokens, const TokenKernels& kernels) {
  const int64_t pairs_of_token = layout.top_k * (layout.top_k - 1) / 2;
  return layout.pair_words() <= std::min(num_tokens, kMaxGathered) * pairs_of_token * kernels.common_a_pair;
}

}  // namespace

TokenMeter::TokenMeter(const HostRouterCall& call, const HostTokenOutputs& outputs, const RouterSumsLayout& layout,
                       int64_t* pairs, int64_t num_tokens, MeterMemory& memory)
    : call_(call),
      logits_(call.logits),
      probabilities_(call.probabilities),
      scores_(call.scores),
      selected_(call.selected),
      weights_(call.weights),
      outputs_(outputs),
      layout_(layout),
      pairs_(pairs),
      kernels_(token_kernels()),
      memory_(memory),
      experts_size_(padded_size(layout.num_experts)),
      gathers_pairs_(pairs != nullptr && pays_to_gather(layout, num_tokens, kernels_)) {
  const auto grow = [](auto& values, int64_t size) {
    if (static_cast<int64_t>(values.size()) < size) values.resize(size);
  };
  const int64_t top_k = std::max<int64_t>(1, layout.top_k);
  grow(memory.experts, kMaxGroup * experts_size_ / kLanes);
  grow(memory.weights, top_k);
  grow(memory.weight_experts, top_k);
  grow(memory.units, kMaxGroup * top_k);
  grow(memory.widened, kMaxGroup * padded_size(top_k) / kLanes);
  grow(memory.chosen, kMaxGroup * top_k);
  grow(memory.sorted, top_k);
  grow(memory.is_chosen, layout.num_experts / 64 + 1);
  if (gathers_pairs_) grow(memory.choosers, layout.num_experts);
}

void TokenMeter::add(const MeteredToken* tokens, int64_t count) {
  tokens_ = tokens;
  count_ = count;
  for (int64_t token = 0; token < count; ++token) ++tokens[token].row[RouterSumsLayout::counter(kTokens)];
  widen_weights();
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

/// Leaves the reals of the tokens at hand in `experts`.
void TokenMeter::read_experts(const PlaneRows& plane) const {
  const void* tokens[kMaxGroup];
  for (int64_t token = 0; token < count_; ++token) tokens[token] = plane.of(tokens_[token].token);
  kernels_.widen(tokens, count_, plane.format(), layout_.num_experts, experts(0));
}

void TokenMeter::add_probabilities() {
  const int64_t num_experts = layout_.num_experts;
  const bool has_probabilities = probabilities_.defined();
  if (logits_.defined()) {
    int64_t* sums[kMaxGroup] = {};
    for (int64_t token = 0; token < count_ && !has_probabilities; ++token) sums[token] = vector(token, kProbabilityLow);
    SoftmaxTerms terms;
    read_experts(logits_);
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
    read_experts(probabilities_);
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
  if (!call_.sigmoid_scores || !(scores_.defined() || logits_.defined())) return;
  read_experts(scores_.defined() ? scores_ : logits_);
  for (int64_t token = 0; token < count_ && !scores_.defined(); ++token) {
    kernels_.sigmoid(experts(token), layout_.num_experts);
  }
  EntropyTerms terms;
  kernels_.entropy(experts(0), layout_.num_experts, count_, kInfinity, terms);
  set_terms(kScoreEntropy, terms.entropy, terms.in_range);
}

void TokenMeter::add_slots() {
  read_slots();
  rank_slots();
  for (int64_t begin = 0, end = 0; begin < count_ && all_are_plain_; begin = end) {
    end = end_of_row(begin);
    add_plain_slots(begin, end);
  }
  for (int64_t token = 0; token < count_ && !all_are_plain_; ++token) {
    slots_[token].are_plain ? add_plain_slots(token, token + 1) : add_other_slots(token);
  }
  for (int64_t token = 0; token < count_; ++token) {
    if (slots_[token].num_chosen == 0) ++tokens_[token].row[RouterSumsLayout::counter(kDroppedTokens)];
  }
  if (gathers_pairs_) return gather_pairs();
  for (int64_t token = 0; token < count_ && pairs_ != nullptr; ++token) add_pairs(token);
}

/// Some time before they are read: a processor waits for what it has just written in other pieces.
void TokenMeter::widen_weights() {
  if (!weights_.defined()) return;
  const void* tokens[kMaxGroup];
  for (int64_t token = 0; token < count_; ++token) tokens[token] = weights_.of(tokens_[token].token);
  kernels_.widen(tokens, count_, weights_.format(), layout_.top_k, memory_.widened.data()->values);
}

void TokenMeter::read_slots() {
  const int64_t top_k = layout_.top_k;
  SlotRows rows;
  for (int64_t token = 0; token < kMaxGroup; ++token) {
    rows.ids[token] = selected_.of(tokens_[std::min(token, count_ - 1)].token);
  }
  rows.ids_are_long = call_.selected.dtype != c10::ScalarType::Int;
  if (weights_.defined()) rows.weights = memory_.widened.data()->values;
  ReadSlots read{memory_.weights.data()->values, memory_.weight_experts.data()->values, memory_.chosen.data(), {}};
  kernels_.read_slots(rows, top_k, layout_.num_experts, kMaxShortWeight, read);
  all_are_plain_ = true;
  for (int64_t token = 0; token < count_; ++token) {
    slots_[token] = {true, top_k, 0, top_k};
    if (read.are_plain[token]) continue;
    all_are_plain_ = false;
    const double* weights = rows.weights == nullptr ? nullptr : rows.weights + token * padded_size(top_k);
    slots_[token] = rows.ids_are_long ? read_other_slots(token, static_cast<const int64_t*>(rows.ids[token]), weights)
                                      : read_other_slots(token, static_cast<const int32_t*>(rows.ids[token]), weights);
  }
}

/// Puts those slots first that hold an expert.
template <typename Id>
TokenMeter::TokenSlots TokenMeter::read_other_slots(int64_t token, const Id* ids, const double* weights) const {
  TokenSlots slots{.are_plain = false};
  const auto set = [&](int64_t place, double weight, double expert) {
    this->weight(token, place) = weight;
    weight_expert(token, place) = expert;
  };
  for (int64_t slot = 0; slot < layout_.top_k; ++slot) {
    if (!is_expert(ids[slot], layout_.num_experts)) {
      slots.num_invalid += ids[slot] != -1;
      continue;
    }
    const int64_t place = slots.num_used++;
    chosen(token, place) = ids[slot];
    set(place, weights == nullptr ? 0 : weights[slot], static_cast<double>(ids[slot]));
  }
  for (int64_t place = slots.num_used; place < layout_.top_k; ++place) set(place, 0, kInfinity);
  return slots;
}

void TokenMeter::rank_slots() {
  const auto write_first = [&](int64_t token, int32_t first) {
    outputs_.first_slot[tokens_[token].token] = first;
    if (first != kNoSlot) ++vector(token, kFirstSlot)[first];
  };
  if (!weights_.defined()) {
    for (int64_t token = 0; token < count_; ++token) {
      write_first(token, slots_[token].num_used > 0 ? static_cast<int32_t>(chosen(token, 0)) : kNoSlot);
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

/// Tokens of one row.
void TokenMeter::add_plain_slots(int64_t begin, int64_t end) {
  const int64_t top_k = layout_.top_k;
  const int64_t* chosen = memory_.chosen.data();
  const int64_t* units = memory_.units.data();
  int64_t* selected = vector(begin, kSelected);
  int64_t* sum_low = vector(begin, kWeightLow);
  for (int64_t slot = 0; slot < top_k; ++slot) {
    for (int64_t i = slot * kMaxGroup + begin; i < slot * kMaxGroup + end; ++i) ++selected[chosen[i]];
  }
  if (!weights_.defined()) return;
  for (int64_t slot = 0; slot < top_k; ++slot) {
    for (int64_t i = slot * kMaxGroup + begin; i < slot * kMaxGroup + end; ++i) sum_low[chosen[i]] += units[i];
  }
  count_term(tokens_[begin].row, kWeight, true, (end - begin) * top_k);
}

/// Leaves the experts with nonzero weight in `chosen`.
void TokenMeter::add_other_slots(int64_t token) {
  TokenSlots& slots = slots_[token];
  int64_t* selected = vector(token, kSelected);
  tokens_[token].row[RouterSumsLayout::counter(kInvalidIds)] += slots.num_invalid;
  int64_t num_in_range = 0;
  for (int64_t slot = 0; slot < slots.num_used; ++slot) {
    const int64_t expert = chosen(token, slot);
    const double weight = weights_.defined() ? this->weight(token, slot) : 1;
    if (weight == 0) {
      ++vector(token, kZeroWeight)[expert];
      continue;
    }
    ++selected[expert];
    chosen(token, slots.num_chosen++) = expert;
    if (!weights_.defined() || !analysis::in_range(weight)) continue;
    ++num_in_range;
    const FixedPoint term = is_short(weight) ? FixedPoint{0, unit(token, slot)} : to_fixed_point(weight);
    vector(token, kWeightHigh)[expert] += term.hi;
    vector(token, kWeightLow)[expert] += term.lo;
  }
  if (!weights_.defined()) return;
  count_term(tokens_[token].row, kWeight, true, num_in_range);
  count_term(tokens_[token].row, kWeight, false, slots.num_chosen - num_in_range);
}

/// Adds the pairs of the chosen experts, each expert once. They are sorted by a set of bits: the order of a token's
/// slots is a toss, and comparing them would mispredict many branches.
void TokenMeter::add_pairs(int64_t token) {
  int64_t* sorted = memory_.sorted.data();
  uint64_t* words = memory_.is_chosen.data();
  for (int64_t i = 0; i < slots_[token].num_chosen; ++i) {
    const int64_t expert = chosen(token, i);
    words[expert >> 6] |= uint64_t{1} << (expert & 63);
  }
  int64_t num_sorted = 0;
  for (int64_t word = 0; word * 64 < layout_.num_experts; ++word) {
    uint64_t bits = words[word];
    words[word] = 0;
    for (; bits != 0; bits &= bits - 1) sorted[num_sorted++] = word * 64 + __builtin_ctzll(bits);
  }
  for (int64_t i = 0; i + 1 < num_sorted; ++i) {
    int64_t* pairs_of_one = pairs_ + layout_.pair_index(sorted[i], 0);
    for (int64_t j = i + 1; j < num_sorted; ++j) ++pairs_of_one[sorted[j]];
  }
}

void TokenMeter::gather_pairs() {
  if (num_gathered_ + count_ > kMaxGathered) add_gathered_pairs();
  uint64_t* choosers = memory_.choosers.data();
  for (int64_t token = 0; token < count_; ++token) {
    const uint64_t bit = uint64_t{1} << (num_gathered_ + token);
    for (int64_t i = 0; i < slots_[token].num_chosen; ++i) choosers[chosen(token, i)] |= bit;
  }
  num_gathered_ += count_;
}

void TokenMeter::add_gathered_pairs() {
  if (num_gathered_ == 0) return;
  kernels_.add_common(memory_.choosers.data(), layout_.num_experts, pairs_);
  std::fill_n(memory_.choosers.data(), layout_.num_experts, 0);
  num_gathered_ = 0;
}

}  // namespace moetap::analysis
