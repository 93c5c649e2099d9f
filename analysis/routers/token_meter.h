#pragma once

#include <cstdint>
#include <vector>

#include "analysis/numbers/token_kernels.h"
#include "analysis/routers/host_call.h"
#include "analysis/routers/host_planes.h"

namespace moetap::analysis {

inline constexpr int32_t kNoSlot = -1;

// Weights of at most this size have at most 2^41 units, as probabilities, and are added to a low limb without being
// split. All slots of a token may hold one expert, so sums are normalized after so many selections, not tokens:
// kMaxTokensInBlock.
inline constexpr double kMaxShortWeight = 2;

/// A token and the row of sums that it is added to.
struct MeteredToken {
  int64_t token = 0;
  int64_t* row = nullptr;
};

/// One value for each token at hand, aligned as the widest vectors want them.
struct alignas(64) EightValues {
  double values[kLanes];
};

/// Memory of a thread for measuring, which grows to the largest call and is used again.
struct MeterMemory {
  std::vector<EightValues> experts;  // values of the tokens at hand, padded_size(num_experts) each
  std::vector<EightValues> widened;  // gate weights of the tokens at hand, padded_size(top_k) each
  // Slots that hold an expert, before the others, of the tokens at hand: [top_k, kMaxGroup].
  std::vector<EightValues> weights;  // see TokenKernels::rank
  std::vector<EightValues> weight_experts;
  std::vector<int64_t> units;
  std::vector<int64_t> chosen;      // their experts
  std::vector<int64_t> sorted;      // the experts of a token: see `add_pairs`
  std::vector<uint64_t> is_chosen;  // a bit an expert, all 0
  std::vector<uint64_t> choosers;   // of each expert a bit a token, all 0: see Note [Pairs of several tokens]
};

/// Measures tokens of a call, a few at once, each in double precision, and adds them to sums.
class TokenMeter {
 public:
  /// `outputs`: of each token its first slot, which is asked for, and its margin, which may be, are written.
  /// `pairs`: the table that pairs are added to; null where there is none. `num_tokens`: how many will come, about.
  TokenMeter(const HostRouterCall& call, const HostTokenOutputs& outputs, const RouterSumsLayout& layout,
             int64_t* pairs, int64_t num_tokens, MeterMemory& memory);

  /// Adds up to kMaxGroup tokens to their rows, which may be the same, and writes their outputs. What a token adds
  /// depends neither on the others nor on its place among them.
  void add(const MeteredToken* tokens, int64_t count);
  /// After the last token.
  void finish() { add_gathered_pairs(); }

 private:
  /// Terms of the tokens at hand for the scalar sums that have limbs of their own.
  static constexpr int64_t kNumTerms = kScoreEntropy + 1;
  struct Terms {
    bool are_asked = false;
    bool in_range[kMaxGroup] = {};
  };
  /// What a token's slots hold.
  struct TokenSlots {
    bool are_plain = true;    // see analysis::ReadSlots; the limit is kMaxShortWeight
    int64_t num_used = 0;     // slots that hold an expert
    int64_t num_invalid = 0;  // neither an expert nor -1
    int64_t num_chosen = 0;   // with nonzero weight
  };

  double* experts(int64_t token) const { return memory_.experts.data()->values + token * experts_size_; }
  double& weight(int64_t token, int64_t slot) const { return memory_.weights[slot].values[token]; }
  double& weight_expert(int64_t token, int64_t slot) const { return memory_.weight_experts[slot].values[token]; }
  int64_t unit(int64_t token, int64_t slot) const { return memory_.units[slot * kMaxGroup + token]; }
  int64_t& chosen(int64_t token, int64_t slot) const { return memory_.chosen[slot * kMaxGroup + token]; }
  int64_t* vector(int64_t token, RowVector which) const { return tokens_[token].row + layout_.vector(which); }
  /// The end of the tokens from `begin` on that are added to the same row.
  int64_t end_of_row(int64_t begin) const;
  void read_experts(const PlaneRows& plane) const;
  void set_terms(RowScalarSum which, const double* values, const bool* in_range);
  void add_terms();
  void add_probabilities();
  void count_distributions(const bool* in_range, const int64_t* largest);
  void add_scores();
  void add_slots();
  void widen_weights();
  void read_slots();
  template <typename Id>
  TokenSlots read_other_slots(int64_t token, const Id* ids, const double* weights) const;
  void rank_slots();
  void add_plain_slots(int64_t begin, int64_t end);
  void add_other_slots(int64_t token);
  void add_pairs(int64_t token);
  void gather_pairs();
  void add_gathered_pairs();

  const HostRouterCall& call_;
  const PlaneRows logits_, probabilities_, scores_, selected_, weights_;
  const HostTokenOutputs outputs_;
  const RouterSumsLayout layout_;
  int64_t* const pairs_;
  const TokenKernels& kernels_;
  MeterMemory& memory_;
  const int64_t experts_size_;  // values of a token, padded
  const bool gathers_pairs_;
  int64_t num_gathered_ = 0;  // tokens in MeterMemory::choosers

  // The tokens at hand.
  const MeteredToken* tokens_ = nullptr;
  int64_t count_ = 0;
  Terms terms_[kNumTerms];
  double values_[kNumTerms * kMaxGroup] = {};  // of `terms_`; 0 where a term is not in range
  TokenSlots slots_[kMaxGroup];
  bool all_are_plain_ = true;
};

}  // namespace moetap::analysis
