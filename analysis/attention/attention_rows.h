#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "analysis/attention/attention_call.h"
#include "analysis/attention/attention_columns.h"

namespace moetap::analysis {

/// What a query is to the numbers. Only a row has values; the lines of others are 0.
enum AttentionLine : uint8_t {
  kNoRow,  // padding
  kRow,
  kEmptyRow,       // all its keys are masked
  kNotFiniteRow,   // a probability is infinite or NaN
  kNotSampledRow,  // a query that `sampled` leaves out
};

/// Sums of the rows of one sequence by head, on the call's device: see Note [Exact sums] and Note [Sums by head].
enum HeadSum : int64_t { kHeadEntropy, kHeadDistance, kHeadFirst, kNumHeadSums };

// Note [Sums by head]
// A row's terms are weighted as the row is (`AttentionRows::weight`) and added in fixed point. The largest score is
// kept as an integer whose order is that of the scores, so that merging is max: `score_code`.

/// What was measured of a call. A line a query, in the order b, q, padding too: no shape depends on data, so nothing
/// waits for a device. About 4 * (R + 30) + 17 bytes a line; R = num_regions. Tensors are contiguous; `position` and
/// `region` may share memory with the tokens that were given.
struct AttentionRows {
  int64_t num_sequences = 0;  // B
  int64_t num_queries = 0;    // Sq
  int64_t num_heads = 0;      // H
  int64_t num_regions = 0;    // R
  bool self = true;
  bool sampled = false;  // some queries may have been left out

  at::Tensor line;      // uint8 [B * Sq]: AttentionLine
  at::Tensor values;    // float32 [B * Sq, num_attention_columns(R)]: AttentionValue
  at::Tensor bins;      // float32 [B * Sq, kNumAttentionBins]
  at::Tensor region;    // uint8 [B * Sq]: of the query
  at::Tensor position;  // int32 [B * Sq]: of the query; -1: padding
  at::Tensor num_keys;  // int32 [B * Sq]: n
  // int32 [B * Sq]: what `position` is relative to: n in self attention, else the sequence's largest position + 1
  at::Tensor length;
  // float64 [B]: queries / sampled queries; 1 where all are measured. `received` is scaled by it already
  at::Tensor weight;
  at::Tensor head_high, head_low;  // int64 [B, H, kNumHeadSums]
  at::Tensor head_max_score;       // int64 [B, H]: score_code; 0: no score is known
  at::Tensor matrix;  // float32 [B, Sq, Sk]: mean over heads of P, valid rows and keys; undefined: not asked for

  int64_t num_lines() const { return num_sequences * num_queries; }
  int64_t num_columns() const { return num_attention_columns(num_regions); }
};

/// Measures a call. Tensors on the CPU: computed before the return, with LibTorch's threads, in memory that grows
/// linearly with Sq + Sk (but for `matrix`); the bits of a row do not depend on the sequences beside it, nor on
/// padding. Other devices: moetap's kernels on the current stream where there are some that take the call, in memory
/// that grows linearly too (see attention_kernel.cuh); else LibTorch operations, in double precision, over blocks of
/// queries so that memory is bounded. No synchronisation. Thread-safe. Throws c10::Error on tensors whose shape, dtype
/// or device does not fit.
AttentionRows measure_attention(const AttentionCall& call, const AttentionTokens& tokens,
                                const AttentionOptions& options = {});

/// Gives back what `measure_attention` made on the CPU: a later call of the same sizes uses its tensors again. Left
/// alone: tensors that someone else holds, and rows of long calls. What is kept is bounded. Thread-safe.
void recycle(AttentionRows rows);

/// The rows whose given probabilities are none: one of a key is negative, or they sum to more than 1, both beyond the
/// rounding of half precision. A sum below 1 is no fault: sinks may have been cut off. int64 [] on the call's device;
/// LibTorch operations, no synchronisation. `call.probabilities` must be defined; arguments as of `measure_attention`.
at::Tensor count_improbable_rows(const AttentionCall& call, const AttentionTokens& tokens);

/// An integer whose order is that of the scores; never 0. `score_of_code` is the inverse.
int64_t score_code(float score);
float score_of_code(int64_t code);

}  // namespace moetap::analysis
