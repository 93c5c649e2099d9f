#pragma once

#include <algorithm>
#include <cstdint>

#include "analysis/attention/attention_call.h"
#include "analysis/attention/attention_rows.h"

namespace moetap::analysis {

/// The sizes of a call.
struct AttentionShape {
  int64_t num_sequences = 0;  // B
  int64_t num_heads = 0;      // H
  int64_t num_key_heads = 0;  // Hk; H where probabilities are given
  int64_t num_queries = 0;    // Sq
  int64_t num_keys = 0;       // Sk
};

/// Throws c10::Error, naming argument, expectation and actual value, unless the call and its tokens fit together.
AttentionShape check_attention(const AttentionCall& call, const AttentionTokens& tokens);

/// Lines of nothing: what all paths fill. `region`, `position`, `num_keys`, `length`, `weight` and which lines are
/// queries (kRow, until more is known) are there already.
AttentionRows prepare_rows(const AttentionShape& shape, const AttentionTokens& tokens, const AttentionOptions& options,
                           at::Device device);

/// The same for tensors on the CPU, in loops, and in tensors that came back by `recycle`.
AttentionRows prepare_rows_on_cpu(const AttentionShape& shape, const AttentionTokens& tokens,
                                  const AttentionOptions& options);

/// The part of `length` positions, of `num_regions`, that a position is in. Part r begins at floor(r * length / R), so
/// the last one that begins at or before s is r = ((s + 1) R - 1) div length. Positions beyond are in the last part, -1
/// in 0.
inline int64_t part_of_position(int64_t position, int64_t length, int64_t num_regions) {
  if (position < 0) return 0;
  return std::min(num_regions - 1, ((position + 1) * num_regions - 1) / std::max<int64_t>(1, length));
}

/// uint8 [B, Sk]: the region of each key, 0 for padding.
at::Tensor key_regions(const AttentionTokens& tokens);

// The paths of `measure_attention`; the third, by kernels, is in attention_device.h. Arguments are checked already. All
// agree to the accuracy of float32.

/// Reference, for any device: LibTorch operations in double precision on the current stream, over blocks of queries, no
/// synchronisation, no shape that depends on data.
AttentionRows measure_with_operations(const AttentionCall& call, const AttentionTokens& tokens,
                                      const AttentionOptions& options);

/// What that path measures, in one piece: float64 [B, H, Sq, Sk]. Arguments as of `measure_attention`.
at::Tensor attention_probabilities(const AttentionCall& call, const AttentionTokens& tokens);

/// CPU tensors only: tiles in float32, with LibTorch's threads.
AttentionRows measure_on_cpu(const AttentionCall& call, const AttentionTokens& tokens, const AttentionOptions& options);

}  // namespace moetap::analysis
