#pragma once

#include <cstdint>

namespace moetap::analysis {

/// Tokens are measured one by one in double precision. The values of a token lie in a buffer of `padded_size(n)`
/// doubles: the first n are the values, and the kernels overwrite the rest.
inline constexpr int64_t kLanes = 8;
constexpr int64_t padded_size(int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

struct SoftmaxTerms {
  // False: a logit was NaN or +inf, or all were -inf; the other fields and the values mean nothing.
  bool in_range = false;
  int64_t largest = 0;  // index of the largest logit, ties to the lower
  double log_sum_exp = 0;
  double entropy = 0;  // H of the probabilities
};

struct EntropyTerms {
  bool in_range = false;  // false: a value was negative, infinite or NaN
  int64_t largest = 0;    // index of the largest value, ties to the lower
  double entropy = 0;     // 0 if all values are 0
};

/// The loops over the experts of one token. H(v) is -sum q ln(q + 1e-9) with q = v / sum(v), the formula of LibMoE, in
/// nats; it is clamped at 0, which the 1e-9 would undercut.
struct TokenKernels {
  /// Replaces logits by their softmax.
  SoftmaxTerms (*softmax)(double* values, int64_t n);
  EntropyTerms (*entropy)(double* values, int64_t n);
  /// Replaces logits by their sigmoid; NaN stays NaN.
  void (*sigmoid)(double* values, int64_t n);
  /// Adds each value, rounded to fixed point in units of 2^-40, to sums[i]. |value| < 2^10.
  void (*add_fixed_point)(const double* values, int64_t n, int64_t* sums);
};

/// The kernels for the widest vectors of this processor. They give the same bits on every processor.
const TokenKernels& token_kernels();

/// The kernels for each instruction set that this processor has, the baseline first; what `token_kernels` chooses from.
struct TokenKernelChoice {
  const char* instruction_set;
  TokenKernels kernels;
};
struct TokenKernelChoices {
  TokenKernelChoice items[3];
  int64_t size;
};
TokenKernelChoices available_token_kernels();

}  // namespace moetap::analysis
