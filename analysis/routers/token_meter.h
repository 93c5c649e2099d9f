#pragma once

#include <cstdint>
#include <vector>

#include "analysis/numbers/token_kernels.h"
#include "analysis/routers/host_call.h"

namespace moetap::analysis {

inline constexpr int32_t kNoSlot = -1;

/// The first two slots of a token: see Note [Slots are ranked by gate weight].
struct TokenSlots {
  int32_t first = kNoSlot;         // expert of the first slot
  double largest = 0, second = 0;  // w[0] and w[1]; 0: there is no such slot, or the call has no weights

  double margin() const { return largest - second; }
  /// Of the weights as they are recorded, in float32.
  float recorded_margin() const { return static_cast<float>(largest) - static_cast<float>(second); }
};

/// A token and the row of sums that it is added to.
struct MeteredToken {
  int64_t token = 0;
  int64_t* row = nullptr;
};

/// Eight values, aligned as the widest vectors want them.
struct alignas(64) EightValues {
  double values[kLanes];
};

/// Memory of a thread for measuring, which grows to the largest call and is used again.
struct MeterMemory {
  std::vector<EightValues> experts;  // values of the tokens at hand, padded_size(num_experts) each
  std::vector<EightValues> weights;  // their gate weights, of slots that hold an expert, padded_size(top_k) each
  std::vector<int64_t> high, low;    // the limbs of `weights`
  std::vector<int64_t> experts_of;   // of `weights`
  std::vector<int64_t> ids;          // of one token, one a slot
  std::vector<int64_t> chosen;       // experts of one token with nonzero weight
  std::vector<uint64_t> is_chosen;   // a bit an expert, all 0: see `sort_chosen`
};

/// Measures tokens of a call, a few at once, each in double precision, and adds them to sums.
class TokenMeter {
 public:
  /// `pairs`: the table that pairs are added to; null where there is none.
  TokenMeter(const HostRouterCall& call, const RouterSumsLayout& layout, int64_t* pairs, MeterMemory& memory);

  /// Adds up to kMaxGroup tokens to their rows, which may be the same; gives their first slots.
  void add(const MeteredToken* tokens, int64_t count, TokenSlots* slots);

 private:
  /// Terms of the tokens at hand for the scalar sums that have limbs of their own.
  struct Term {
    double value = 0;
    bool is_asked = false, in_range = false;
  };
  static constexpr int64_t kNumTerms = kScoreEntropy + 1;

  double* experts(int64_t token) const { return memory_.experts.data()->values + token * experts_size_; }
  double* weights(int64_t token) const { return memory_.weights.data()->values + token * slots_size_; }
  int64_t* vector(int64_t token, RowVector which) const { return tokens_[token].row + layout_.vector(which); }
  void set_term(int64_t token, RowScalarSum which, bool in_range, double value);
  void add_terms();
  void add_probabilities();
  void add_distribution(int64_t token, bool in_range, double entropy, int64_t top);
  void add_experts();
  void add_scores();
  void add_slots(TokenSlots* slots);
  TokenSlots rank_slots(int64_t token);
  void add_selections(int64_t token, TokenSlots& slots);
  void add_pairs(int64_t num_chosen);
  int64_t sort_chosen(int64_t num_chosen);

  const HostRouterCall& call_;
  const RouterSumsLayout layout_;
  int64_t* const pairs_;
  const TokenKernels& kernels_;
  MeterMemory& memory_;
  const int64_t experts_size_, slots_size_;  // values of a token, padded

  // The tokens at hand.
  const MeteredToken* tokens_ = nullptr;
  int64_t count_ = 0;
  Term terms_[kNumTerms][kMaxGroup];
  bool has_distribution_[kMaxGroup] = {};
  int64_t num_used_[kMaxGroup] = {};  // slots that hold an expert
};

}  // namespace moetap::analysis
