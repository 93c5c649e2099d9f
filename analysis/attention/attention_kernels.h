#pragma once

#include <cstdint>

#include "analysis/numbers/token_kernels.h"

namespace moetap::analysis {

// Note [Tiles of attention]
// A block is up to kBlockRows rows of one sequence, a tile the keys that are taken at once. Values of a tile lie in
// [keys, pitch] floats: a row of the sequence is a *lane*. So all sums over keys are additions of vectors, each lane on
// its own, in the order of the keys: a row's bits depend neither on its place in the block nor on the rows beside it,
// and padding, which is never in a block, changes nothing. Sums over the keys of a tile are made in float32, those over
// tiles in double precision.
//
// Lanes are taken kLaneGroup at once; lanes without a row have probabilities of 0.
inline constexpr int64_t kLaneGroup = 16;
inline constexpr int64_t kBlockRows = 64;
inline constexpr int64_t kTileKeys = 64;
// Of a key, as many values are taken at once; keys that are copied lie kKeyPitch apart, so that they do not compete for
// the same lines of the first-level cache.
inline constexpr int64_t kDepthAtOnce = 128;
inline constexpr int64_t kKeyPitch = kDepthAtOnce + 16;
inline constexpr int64_t kKeyGroup = 8;  // keys at once

/// A tile, from a lane on.
struct AttentionTile {
  int64_t pitch = 0;  // from a key to the next
  int64_t lanes = 0;  // a multiple of kLaneGroup
  int64_t keys = 0;   // at most kTileKeys
};

/// What is summed of a head by lane, over tiles.
struct HeadLanes {
  double* mass = nullptr;      // sum of P
  double* products = nullptr;  // sum of P ln P
  double* distance = nullptr;  // sum of P |i - j|
  float* largest = nullptr;    // the largest score
};

/// What is summed of the mean over heads by lane, over tiles.
struct DistanceLanes {
  double* distance = nullptr;
  double* self = nullptr;
  double* diagonal = nullptr;
  double* far = nullptr;
};

// Note [A row by its keys]
// A sequence of few queries, as a step of generation has one, would leave most lanes without a row. Its rows are taken
// one by one instead, and the values of a row's keys lie side by side: vectors are of keys. Heads that share keys are
// multiplied at once.
inline constexpr int64_t kHeadsAtOnce = 4;

/// What is summed of the exponentials of a row.
struct ExponentialSums {
  double sum = 0;       // of e
  double products = 0;  // of e ln e
  double distance = 0;  // of e |i - j|
};

/// What is summed of the mean over heads of a row.
struct DistanceSums {
  double distance = 0, self = 0, diagonal = 0, far = 0;
};

/// The loops over the keys of one row. num_keys is a multiple of kLaneGroup unless said otherwise.
struct AttentionRowKernels {
  /// scores[head * pitch + j] = sum over d < depth of query[head * depth + d] * key[j * key_pitch + d], for up to
  /// kHeadsAtOnce heads and any number of keys. depth is a multiple of kLaneGroup. Scores have room for a multiple of
  /// kLaneGroup keys; what is behind the keys is undefined.
  void (*scores)(int64_t num_heads, const float* query, int64_t num_keys, const float* key, int64_t key_pitch,
                 int64_t depth, float* scores, int64_t pitch);
  /// The largest value that is not NaN; -inf where there is none.
  float (*largest)(int64_t num_keys, const float* values);
  /// values[j] = e = exp(values[j] - shift), and their sums. NaN makes them NaN.
  ExponentialSums (*exponentials)(int64_t num_keys, float* values, float shift, float query_position,
                                  const float* key_position);
  /// to[j] += values[j] * factor.
  void (*add_scaled)(int64_t num_keys, const float* values, float factor, float* to);
  /// half: n div 2 of the sequence.
  DistanceSums (*distances)(int64_t num_keys, const float* mean, float query_position, const float* key_position,
                            float half);
  /// Of any number of values up to kTileKeys.
  float (*sum)(int64_t num_keys, const float* values);
};

/// The loops over tiles. Pointers are to the first lane; those to lanes have `lanes` values.
struct AttentionKernels {
  /// n values that lie side by side, to float32.
  void (*widen)(const void* from, RealFormat format, int64_t n, float* to);
  /// scores[j, lane] = sum over d < depth of query[d * pitch + lane] * key[j * key_pitch + d], added to what is there
  /// if `add`. Keys are taken kKeyGroup at once: key and scores have room for a multiple of that.
  void (*scores)(AttentionTile tile, const float* query, const float* key, int64_t key_pitch, int64_t depth, bool add,
                 float* scores);
  void (*add)(AttentionTile tile, const float* mask, float* scores);
  /// largest: the maximum of what was there and the scores; sum: of exp(score - largest). NaN makes sum NaN.
  void (*softmax)(AttentionTile tile, const float* scores, float* largest, double* sum);
  /// P = exp(score - shift - log_sum), added to `mean`, and P * mass to `raw` unless that is null.
  void (*attend)(AttentionTile tile, const float* scores, const float* shift, const float* log_sum,
                 const float* query_position, const float* key_position, const HeadLanes& sums, float* mean, float* raw,
                 const float* mass);
  /// half: n div 2 of the sequence.
  void (*distances)(AttentionTile tile, const float* mean, const float* query_position, const float* key_position,
                    float half, const DistanceLanes& sums);
  /// sums[lane] = sum over keys.
  void (*sum_keys)(AttentionTile tile, const float* mean, float* sums);
  /// sums[key] = sum over lanes.
  void (*sum_lanes)(AttentionTile tile, const float* mean, float* sums);
  /// ln of each value; of 0 it is -inf, of negative values NaN.
  void (*logarithms)(AttentionTile tile, float* values);
  AttentionRowKernels of_row;
};

/// The kernels for the widest vectors that are used: see instruction_sets.h. Products and sums are contracted where it
/// can: bits differ between instruction sets.
const AttentionKernels& attention_kernels();

/// The kernels for each instruction set that this processor has, in the order of InstructionSet.
struct AttentionKernelChoice {
  const char* instruction_set;
  AttentionKernels kernels;
};
struct AttentionKernelChoices {
  AttentionKernelChoice items[3];
  int64_t size;
};
AttentionKernelChoices available_attention_kernels();

AttentionKernels baseline_attention_kernels();
AttentionKernels avx2_attention_kernels();
AttentionKernels avx512_attention_kernels();

}  // namespace moetap::analysis
