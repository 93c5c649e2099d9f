#pragma once

#include <cstdint>

namespace moetap::analysis {

/// Tokens are measured in double precision, a few at once: see Note [Tokens side by side]. The values of a token lie in
/// `padded_size(n)` doubles: the first n are the values, and the kernels overwrite the rest. Those of the next token
/// follow.
inline constexpr int64_t kLanes = 8;
inline constexpr int64_t kMaxGroup = 8;  // tokens at once, at most
constexpr int64_t padded_size(int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

/// How the values of a call are stored.
enum class RealFormat { kFloat, kDouble, kHalf, kBFloat16 };

/// What the kernels give for the tokens at hand. Of a token that is not in range the other fields mean nothing.
struct SoftmaxTerms {
  // False: a logit was NaN or +inf, or all were -inf.
  bool in_range[kMaxGroup];
  int64_t largest[kMaxGroup];  // index of the largest logit, ties to the lower
  double log_sum_exp[kMaxGroup];
  double entropy[kMaxGroup];  // H of the probabilities; of tokens that have sums
};

struct EntropyTerms {
  bool in_range[kMaxGroup];   // false: a value was negative, above the limit, infinite or NaN
  double entropy[kMaxGroup];  // 0 if all values are 0
};

/// Where the slots of kMaxGroup tokens lie. Where there are fewer tokens, the others are copies of one of them.
struct SlotRows {
  const void* ids[kMaxGroup];  // int64 or int32 [n]
  bool ids_are_long = true;
  const double* weights = nullptr;  // [kMaxGroup, padded_size(n)]; null: there are none
};

/// Slots as `rank` wants them, [n, kMaxGroup]; what a slot of a token that is not plain holds means nothing.
struct ReadSlots {
  double* weights;  // left alone, as `experts`, where there are no weights
  double* experts;
  int64_t* ids;
  bool are_plain[kMaxGroup];  // all slots hold an expert, with weights that are within the limit and not 0
};

/// See Note [Slots are ranked by gate weight].
struct RankTerms {
  double first[kMaxGroup];                       // expert of the first slot; infinite: no slot holds one
  double largest[kMaxGroup], second[kMaxGroup];  // the first two weights; -inf: there is none, or it is NaN
  EntropyTerms entropies;                        // H of the weights
};

/// The loops over the experts of tokens. H(v) is -sum q ln(q + 1e-9) with q = v / sum(v), the formula of LibMoE, in
/// nats, to 1e-9 an expert at worst; it is clamped at 0, which the 1e-9 would undercut. `count`: tokens, 1 to
/// kMaxGroup; what a token gives does not depend on the tokens beside it.
struct TokenKernels {
  /// Reads the n values of each token, which lie at tokens[token]; the padding is left alone.
  void (*widen)(const void* const* tokens, int64_t count, RealFormat format, int64_t n, double* values);
  /// Overwrites logits. Adds the softmax of each token that is in range, rounded to fixed point in units of 2^-40, to
  /// its sums[token], n words; null: to none. Several tokens may have the same.
  void (*softmax)(double* logits, int64_t n, int64_t count, int64_t* const* sums, SoftmaxTerms& terms);
  void (*entropy)(double* values, int64_t n, int64_t count, double limit, EntropyTerms& terms);
  /// The index of the largest of n values, none of which is NaN or infinite; ties to the lower.
  int64_t (*largest)(double* values, int64_t n);
  /// Replaces logits of one token by their sigmoid; NaN stays NaN.
  void (*sigmoid)(double* values, int64_t n);
  /// Adds the values of each token, rounded to fixed point in units of 2^-40, to sums[i]. |value| < 2^10.
  void (*add_fixed_point)(const double* values, int64_t n, int64_t count, int64_t* sums);
  /// to_fixed_point of n values of one token. Of a value that is not in range the limbs mean nothing.
  void (*to_limbs)(const double* values, int64_t n, int64_t* high, int64_t* low);
  /// Reads n slots of kMaxGroup tokens. `limit`: of the size of a weight, for tokens that are plain.
  void (*read_slots)(const SlotRows& rows, int64_t n, int64_t num_experts, double limit, ReadSlots& slots);
  /// Ranks n slots of kMaxGroup tokens: [n, kMaxGroup]. Where a slot holds no expert the weight is 0 and the expert
  /// infinite. `units`: the weights in fixed point in units of 2^-40; of |weight| >= 2^10 they mean nothing.
  void (*rank)(const double* weights, const double* experts, int64_t n, int64_t* units, RankTerms& terms);
  /// Adds to sums[p] the number of bits that both of two sets have; p counts the pairs (0, 1), (0, 2), ..., (n - 2, n -
  /// 1).
  void (*add_common)(const uint64_t* sets, int64_t n, int64_t* sums);
  int64_t common_a_pair;  // pairs of sets that it takes in the time in which 1 is added to a pair, about
};

/// The kernels for the widest vectors that are used: see instruction_sets.h. All give the same bits.
const TokenKernels& token_kernels();

/// The kernels for each instruction set that this processor has, in the order of InstructionSet.
struct TokenKernelChoice {
  const char* instruction_set;
  TokenKernels kernels;
};
struct TokenKernelChoices {
  TokenKernelChoice items[3];
  int64_t size;
};
TokenKernelChoices available_token_kernels();

/// Of one instruction set each, whether this processor has it or not.
TokenKernels baseline_token_kernels();
TokenKernels avx2_token_kernels();
TokenKernels avx512_token_kernels();

}  // namespace moetap::analysis
