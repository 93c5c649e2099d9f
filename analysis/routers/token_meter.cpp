#include "analysis/routers/token_meter.h"

#include <algorithm>
#include <limits>

#include "analysis/numbers/fixed_point.h"
#include "analysis/routers/host_planes.h"

namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void count_term(int64_t* row, RowScalarSum which, bool in_range, int64_t count = 1) {
  row[RouterSumsLayout::scalar_sum(which) + (in_range ? kTermsAdded : kTermsOutOfRange)] += count;
}

}  // namespace

TokenMeter::TokenMeter(const HostRouterCall& call, const RouterSumsLayout& layout, int64_t* pairs, MeterMemory& memory)
    : call_(call),
      layout_(layout),
      pairs_(pairs),
      kernels_(token_kernels()),
      memory_(memory),
      experts_size_(padded_size(layout.num_experts)),
      slots_size_(padded_size(layout.top_k)) {
  const auto grow = [](auto& values, int64_t size) {
    if (static_cast<int64_t>(values.size()) < size) values.resize(size);
  };
  grow(memory.is_chosen, layout.num_experts / 64 + 1);
  grow(memory.experts, kMaxGroup * experts_size_ / kLanes);
  for (std::vector<int64_t>* of_slots : {&memory.high, &memory.low, &memory.experts_of}) {
    grow(*of_slots, kMaxGroup * slots_size_);
  }
  grow(memory.weights, std::max<int64_t>(1, kMaxGroup * slots_size_ / kLanes));
  for (std::vector<int64_t>* of_token : {&memory.ids, &memory.chosen}) grow(*of_token, layout.top_k);
}

void TokenMeter::add(const MeteredToken* tokens, int64_t count, TokenSlots* slots) {
  tokens_ = tokens;
  count_ = count;
  for (int64_t token = 0; token < count; ++token) ++tokens[token].row[RouterSumsLayout::counter(kTokens)];
  add_probabilities();
  add_scores();
  add_slots(slots);
  add_terms();
}

void TokenMeter::set_term(int64_t token, RowScalarSum which, bool in_range, double value) {
  in_range = in_range && analysis::in_range(value);
  terms_[which][token] = {in_range ? value : 0, true, in_range};
}

void TokenMeter::add_terms() {
  double values[kNumTerms * kMaxGroup];
  int64_t high[kNumTerms * kMaxGroup], low[kNumTerms * kMaxGroup];
  for (int64_t i = 0; i < kNumTerms * kMaxGroup; ++i) values[i] = terms_[i / kMaxGroup][i % kMaxGroup].value;
  kernels_.to_limbs(values, kNumTerms * kMaxGroup, high, low);
  for (int64_t which = 0; which < kNumTerms; ++which) {
    for (int64_t token = 0; token < count_; ++token) {
      Term& term = terms_[which][token];
      if (!term.is_asked) continue;
      int64_t* sum = tokens_[token].row + RouterSumsLayout::scalar_sum(static_cast<RowScalarSum>(which));
      sum[kHighLimb] += high[which * kMaxGroup + token];
      sum[kLowLimb] += low[which * kMaxGroup + token];
      ++sum[term.in_range ? kTermsAdded : kTermsOutOfRange];
    }
  }
}

void TokenMeter::add_probabilities() {
  const int64_t num_experts = layout_.num_experts;
  const auto read = [&](const HostPlane& plane) {
    const RealFormat format = format_of(plane);
    for (int64_t token = 0; token < count_; ++token) {
      kernels_.widen(values_of(plane, tokens_[token].token), format, num_experts, experts(token));
    }
  };
  if (call_.logits.defined()) {
    SoftmaxTerms softmax[kMaxGroup];
    read(call_.logits);
    kernels_.softmax(experts(0), num_experts, count_, softmax);
    for (int64_t token = 0; token < count_; ++token) {
      const SoftmaxTerms& terms = softmax[token];
      set_term(token, kLseSquared, terms.in_range, terms.log_sum_exp * terms.log_sum_exp);
      if (!call_.probabilities.defined()) add_distribution(token, terms.in_range, terms.entropy, terms.largest);
    }
    if (!call_.probabilities.defined()) add_experts();
  }
  if (call_.probabilities.defined()) {
    EntropyTerms entropies[kMaxGroup];
    read(call_.probabilities);
    kernels_.entropy(experts(0), num_experts, count_, kMaxProbability, entropies);
    for (int64_t token = 0; token < count_; ++token) {
      const EntropyTerms& terms = entropies[token];
      const int64_t top = terms.in_range ? kernels_.largest(experts(token), num_experts) : 0;
      add_distribution(token, terms.in_range, terms.entropy, top);
    }
    add_experts();
  }
}

void TokenMeter::add_distribution(int64_t token, bool in_range, double entropy, int64_t top) {
  set_term(token, kEntropyAll, in_range, entropy);
  count_term(tokens_[token].row, kProbability, in_range);
  has_distribution_[token] = in_range;
  if (in_range) ++vector(token, kTopProbability)[top];
}

/// Adds the probabilities of the tokens at hand, of neighbours in one row together.
void TokenMeter::add_experts() {
  for (int64_t begin = 0, end = 0; begin < count_; begin = end) {
    end = begin + 1;
    if (!has_distribution_[begin]) continue;
    while (end < count_ && has_distribution_[end] && tokens_[end].row == tokens_[begin].row) ++end;
    kernels_.add_fixed_point(experts(begin), layout_.num_experts, end - begin, vector(begin, kProbabilityLow));
  }
}

void TokenMeter::add_scores() {
  if (!call_.sigmoid_scores || !(call_.scores.defined() || call_.logits.defined())) return;
  const HostPlane& plane = call_.scores.defined() ? call_.scores : call_.logits;
  for (int64_t token = 0; token < count_; ++token) {
    kernels_.widen(values_of(plane, tokens_[token].token), format_of(plane), layout_.num_experts, experts(token));
    if (!call_.scores.defined()) kernels_.sigmoid(experts(token), layout_.num_experts);
  }
  EntropyTerms entropies[kMaxGroup];
  kernels_.entropy(experts(0), layout_.num_experts, count_, kInfinity, entropies);
  for (int64_t token = 0; token < count_; ++token) {
    set_term(token, kScoreEntropy, entropies[token].in_range, entropies[token].entropy);
  }
}

void TokenMeter::add_slots(TokenSlots* slots) {
  for (int64_t token = 0; token < count_; ++token) slots[token] = rank_slots(token);
  if (call_.weights.defined()) {
    kernels_.to_limbs(weights(0), count_ * slots_size_, memory_.high.data(), memory_.low.data());
    EntropyTerms entropies[kMaxGroup];
    kernels_.entropy(weights(0), layout_.top_k, count_, kInfinity, entropies);
    for (int64_t token = 0; token < count_; ++token) {
      set_term(token, kEntropyTopk, entropies[token].in_range, entropies[token].entropy);
      if (call_.has_margins()) set_term(token, kMargin, true, slots[token].margin());
    }
  }
  for (int64_t token = 0; token < count_; ++token) add_selections(token, slots[token]);
}

/// Finds the slots that hold an expert, and the first two of them.
TokenSlots TokenMeter::rank_slots(int64_t token) {
  const int64_t top_k = layout_.top_k;
  const bool weighted = call_.weights.defined();
  int64_t* experts = memory_.experts_of.data() + token * slots_size_;
  double* weights = this->weights(token);
  const int64_t* ids = read_ids(call_.selected, tokens_[token].token, top_k, memory_.ids.data());
  if (weighted)
    kernels_.widen(values_of(call_.weights, tokens_[token].token), format_of(call_.weights), top_k, weights);

  int64_t num_used = 0, num_invalid = 0;
  for (int64_t slot = 0; slot < top_k; ++slot) {
    const bool is_used = is_expert(ids[slot], layout_.num_experts);
    experts[num_used] = ids[slot];
    if (weighted) weights[num_used] = weights[slot];
    num_used += is_used;
    num_invalid += !is_used && ids[slot] != -1;
  }
  tokens_[token].row[RouterSumsLayout::counter(kInvalidIds)] += num_invalid;
  num_used_[token] = num_used;
  TokenSlots slots;
  if (num_used > 0) slots.first = static_cast<int32_t>(experts[0]);
  if (!weighted) return slots;

  std::fill(weights + num_used, weights + slots_size_, 0.0);  // adds nothing to an entropy
  const auto rank = [&](int64_t i) { return weights[i] == weights[i] ? weights[i] : -kInfinity; };
  if (num_used > 0) slots.largest = rank(0);
  if (num_used > 1) slots.second = -kInfinity;
  for (int64_t i = 1; i < num_used; ++i) {
    const double weight = rank(i);
    // The second weight is the largest of all other slots, whether they hold the same expert or not.
    const bool is_first = weight > slots.largest || (weight == slots.largest && experts[i] < slots.first);
    slots.second = is_first ? slots.largest : weight > slots.second ? weight : slots.second;
    slots.largest = is_first ? weight : slots.largest;
    slots.first = is_first ? static_cast<int32_t>(experts[i]) : slots.first;
  }
  return slots;
}

void TokenMeter::add_selections(int64_t token, TokenSlots& slots) {
  const int64_t* experts = memory_.experts_of.data() + token * slots_size_;
  int64_t* chosen = memory_.chosen.data();
  int64_t* selected = vector(token, kSelected);
  int64_t num_chosen = 0;
  if (!call_.weights.defined()) {
    for (; num_chosen < num_used_[token]; ++num_chosen) {
      chosen[num_chosen] = experts[num_chosen];
      ++selected[experts[num_chosen]];
    }
  } else {
    const double* weights = this->weights(token);
    const int64_t* high = memory_.high.data() + token * slots_size_;
    const int64_t* low = memory_.low.data() + token * slots_size_;
    int64_t* sum_high = vector(token, kWeightHigh);
    int64_t* sum_low = vector(token, kWeightLow);
    int64_t num_in_range = 0;
    for (int64_t i = 0; i < num_used_[token]; ++i) {
      const int64_t id = experts[i];
      if (weights[i] == 0) {
        ++vector(token, kZeroWeight)[id];
        continue;
      }
      ++selected[id];
      chosen[num_chosen++] = id;
      if (!analysis::in_range(weights[i])) continue;
      ++num_in_range;
      sum_high[id] += high[i];
      sum_low[id] += low[i];
    }
    count_term(tokens_[token].row, kWeight, true, num_in_range);
    count_term(tokens_[token].row, kWeight, false, num_chosen - num_in_range);
  }
  if (slots.first != kNoSlot) ++vector(token, kFirstSlot)[slots.first];
  if (num_chosen == 0) ++tokens_[token].row[RouterSumsLayout::counter(kDroppedTokens)];
  if (pairs_ != nullptr) add_pairs(num_chosen);
}

/// Adds the pairs of the chosen experts, each expert once.
void TokenMeter::add_pairs(int64_t num_chosen) {
  num_chosen = sort_chosen(num_chosen);
  const int64_t* chosen = memory_.chosen.data();
  for (int64_t i = 0; i + 1 < num_chosen; ++i) {
    int64_t* pairs_of_one = pairs_ + layout_.pair_index(chosen[i], 0);
    for (int64_t j = i + 1; j < num_chosen; ++j) ++pairs_of_one[chosen[j]];
  }
}

/// Sorts the chosen experts and returns how many there are, each counted once. By a set of bits: the order of a token's
/// slots is a toss, and comparing them would mispredict many branches.
int64_t TokenMeter::sort_chosen(int64_t num_chosen) {
  int64_t* chosen = memory_.chosen.data();
  uint64_t* words = memory_.is_chosen.data();
  for (int64_t i = 0; i < num_chosen; ++i) words[chosen[i] >> 6] |= uint64_t{1} << (chosen[i] & 63);
  int64_t num_sorted = 0;
  for (int64_t word = 0; word * 64 < layout_.num_experts; ++word) {
    uint64_t bits = words[word];
    words[word] = 0;
    for (; bits != 0; bits &= bits - 1) chosen[num_sorted++] = word * 64 + __builtin_ctzll(bits);
  }
  return num_sorted;
}

}  // namespace moetap::analysis
