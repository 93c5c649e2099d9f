#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "analysis/attention/attention_columns.h"
#include "analysis/attention/attention_paths.h"
#include "analysis/numbers/host_device.h"

namespace moetap::analysis {

enum class AttentionElement : int32_t { kFloat, kHalf, kBFloat16, kDouble, kBool };

/// A tensor of four dimensions on the device; null data: the call does not have it.
struct AttentionTensor {
  const void* data = nullptr;
  int64_t strides[4] = {};  // in elements
  AttentionElement type = AttentionElement::kFloat;
  bool in_pieces = false;  // rows lie in whole pieces of 16 bytes
};

/// A tensor [B, S] on the device.
template <typename Value>
struct AttentionTokenColumn {
  const Value* data = nullptr;
  int64_t strides[2] = {};  // in elements

  MOETAP_HOST_DEVICE Value at(int64_t sequence, int64_t token) const {
    return data[sequence * strides[0] + token * strides[1]];
  }
};

// Note [Tiles of the attention kernel]
// A warp takes 16 rows of a head, a block up to 4 warps, a tile 64 neighbouring keys of the tensor. Keys are weighted
// with 40 columns of zeros and ones, whose products with p are the sums by region, by bin, and so on.
inline constexpr int32_t kRowsOfWarp = 16;
inline constexpr int32_t kMaxWarpsOfBlock = 4;
inline constexpr int32_t kKeysOfTile = 64;
/// Bytes of a row of queries or keys in shared memory at once.
inline constexpr int32_t kBytesOfStage = 256;

inline constexpr int32_t kRegionColumns = 0;  // kMaxAttentionRegions
inline constexpr int32_t kBinColumns = 16;    // kPatternBins, then the quarters, as in AttentionRows::bins
inline constexpr int32_t kFirstQuarterColumn = kBinColumns + kFirstQuarter;
inline constexpr int32_t kLastQuarterColumn = kBinColumns + kLastQuarter;
inline constexpr int32_t kFirstColumn = 34, kLastColumn = 35;
inline constexpr int32_t kNumKeyColumns = 40;  // a multiple of 8
static_assert(kMaxAttentionRegions <= kBinColumns && kLastQuarterColumn < kFirstColumn);

/// What is summed of a row over heads and keys, in fixed point; behind these the columns of keys.
enum RowWord : int32_t {
  kEntropyWord,
  kMaxWeightWord,
  kKeyMassWord,
  kDistanceWord,
  kSelfWord,
  kDiagonalWord,
  kFarWord,
  kColumnWords,
  kNumRowWords = kColumnWords + kNumKeyColumns,
};
/// Units in 1: values of a row are below 2^26, as positions are.
inline constexpr float kRowUnits = 0x1p36F;

/// A key: its position, -1 for padding, and what is added to its scores (in units of ln 2; -inf: no row sees it).
struct alignas(8) AttentionKey {
  float position, bias;
};

/// Keys of a tile.
struct AttentionKeyTile {
  int32_t first = 0, last = 0;  // the least and the largest position of valid keys
  int32_t num_valid = 0;        // keys that are tokens
  int32_t open_valid = 0;       // of these, those that a row may see
  int32_t open_padding = 0;     // keys that are no tokens, but may be seen
};

/// Of a row and head, over a part of the keys: sums of 2^(score - largest).
struct AttentionPartialSoftmax {
  float largest, sum;  // over valid keys
  float largest_of_padding, sum_of_padding;
};
/// Where probabilities are given, `largest_of_padding` is the largest score instead, and `sum_of_padding` 1 if the
/// softmax read anything but -inf.

/// Of a row and head, over all keys.
struct AttentionSoftmax {
  // p = 2^(score - largest - logarithm): one number instead would lose the second where the first is the lowest of all.
  float largest;    // +inf: no key is seen
  float logarithm;  // of the sum of powers relative to it
  float mass;       // sum of P over valid keys
  float score;      // the largest, natural; -inf: none
};

enum AttentionRowState : int32_t { kSeesKeys = 1, kIsNotFinite = 2 };

/// The arguments of the kernels; all addresses are of the device.
struct AttentionKernelArguments {
  AttentionTensor query, key, mask, probabilities, scores;
  AttentionTokenColumn<int32_t> query_position, key_position;
  AttentionTokenColumn<uint8_t> query_region, key_region;  // null data: parts of the positions
  AttentionTokenColumn<bool> sampled;                      // null data: all
  int64_t num_lines = 0;                                   // B * Sq
  int32_t num_sequences = 0, num_heads = 0, heads_of_key = 1, num_queries = 0, num_keys = 0, depth = 0;
  int32_t num_regions = 0;
  float scale = 1;               // of the product, to units of ln 2
  float share = 1;               // 1 / H
  bool mask_is_of_keys = false;  // the mask depends on sequence and key alone: it is in AttentionKey::bias
  bool causal = false;
  bool self = false;

  // How the work is cut; see AttentionKernelPlan.
  int32_t warps_of_block = 1, row_blocks = 0, key_tiles = 0, token_tiles = 0;
  int32_t softmax_tiles = 1, softmax_parts = 0, value_tiles = 1, value_parts = 0;
  int32_t row_bytes = 0;  // of a row of queries or keys in shared memory, and from one to the next
  int32_t row_pitch = 0;
  int32_t pieces_shift = 0;  // log2 of the threads that copy a row

  // AttentionRows; int64 unless said
  uint8_t* line = nullptr;
  float* values = nullptr;
  float* bins = nullptr;
  uint8_t* region = nullptr;
  int32_t* rows_num_keys = nullptr;
  int32_t* length = nullptr;
  double* weight = nullptr;
  int64_t* head_high = nullptr;
  int64_t* head_low = nullptr;
  int64_t* head_max_score = nullptr;
  float* matrix = nullptr;  // [B, Sq, Sk], zeros; null: not asked for

  // Memory of this call, see AttentionScratch.
  int64_t* row_words = nullptr;                // [B * Sq, kNumRowWords]
  int64_t* received = nullptr;                 // [B, Sk], in kRowUnits
  AttentionPartialSoftmax* partial = nullptr;  // [softmax_parts, B, H, Sq]: by slot
  AttentionSoftmax* softmax = nullptr;         // [B, H, Sq]: by slot
  AttentionKey* keys = nullptr;                // [B, key_tiles, kKeysOfTile]
  AttentionKeyTile* tiles = nullptr;           // [B, key_tiles]
  uint32_t* columns = nullptr;                 // [B, key_tiles, kWordsOfColumns]
  int32_t* state = nullptr;                    // [B * Sq]: AttentionRowState
  int32_t* rows = nullptr;                     // [B, Sq]: the queries that are measured, ascending: *slots*
  int32_t* num_rows = nullptr;                 // [B]
};

/// Words of the columns of a tile's keys, as lanes read them: see `write_columns`.
inline constexpr int32_t kWordsOfColumns = kKeysOfTile * kNumKeyColumns / 2;

/// How a call is launched, one kernel behind the other.
struct AttentionKernelLaunch {
  AttentionKernelArguments arguments;
  int64_t prepare_blocks = 0, softmax_blocks = 0, combine_blocks = 0, value_blocks = 0, matrix_blocks = 0,
          finish_blocks = 0;
  int64_t softmax_bytes = 0, value_bytes = 0;  // of shared memory
};
inline constexpr int32_t kThreadsOfTokens = 128;  // in blocks of the kernels that are about tokens

/// Why the kernels cannot take a call, in words; null: they can.
const char* attention_kernel_refusal(const AttentionCall& call, const AttentionShape& shape);

/// The terms that a row of a call adds to each sum by head: one for each part of the keys.
int64_t attention_terms_of_row(const AttentionShape& shape);

/// int64 words of memory that the kernels of a call need beside `rows`. It grows linearly with Sq + Sk.
int64_t attention_scratch_words(const AttentionShape& shape);

/// Blocks that keep a large device busy: a pass is cut into parts of the keys until it has as many.
inline constexpr int64_t kEnoughBlocks = 512;

/// Arguments are checked already, and not refused. enough_blocks: at most kEnoughBlocks, for which `scratch` is. The
/// parts that work is cut into depend on the shape alone, so bits do not depend on the device.
AttentionKernelLaunch attention_kernel_launch(const AttentionCall& call, const AttentionTokens& tokens,
                                              const AttentionShape& shape, const AttentionRows& rows,
                                              const at::Tensor& scratch, int64_t enough_blocks = kEnoughBlocks);

/// Bytes of shared memory: rows of queries, of keys, the keys and their columns, what keys receive from each warp.
struct AttentionBlockMemory {
  int32_t row_pitch = 0, warps = 0;

  MOETAP_HOST_DEVICE constexpr int32_t queries() const { return 0; }
  MOETAP_HOST_DEVICE constexpr int32_t key_rows() const { return warps * kRowsOfWarp * row_pitch; }
  MOETAP_HOST_DEVICE constexpr int32_t keys() const { return key_rows() + kKeysOfTile * row_pitch; }
  MOETAP_HOST_DEVICE constexpr int32_t columns() const { return keys() + kKeysOfTile * 8; }
  MOETAP_HOST_DEVICE constexpr int32_t received() const { return columns() + kWordsOfColumns * 4; }
  MOETAP_HOST_DEVICE constexpr int32_t bytes() const { return received() + warps * kKeysOfTile * 4; }
};
// The shared memory that a block may have without a special launch attribute.
static_assert(AttentionBlockMemory{kBytesOfStage + 64, kMaxWarpsOfBlock}.bytes() <= 48 << 10);

}  // namespace moetap::analysis
