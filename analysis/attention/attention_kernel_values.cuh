#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <limits>

#include "analysis/attention/attention_kernel_arguments.h"
#include "analysis/numbers/matrix_tiles.cuh"
#include "analysis/numbers/warp.cuh"

// How the attention kernels read tensors, and the numbers that they share.
namespace moetap::analysis::attention_kernel {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kLowest = std::numeric_limits<float>::lowest();
inline constexpr float kLog2OfE = 1.44269504F;
inline constexpr float kLn2 = 0.693147181F;

/// 16 bytes, moved at once.
struct alignas(16) Words {
  uint32_t of[4];
};

/// In one instruction: nvcc takes an array of four apart.
MOETAP_DEVICE inline Words load_words(const void* from) {
#ifdef __CUDACC__
  const uint4 words = *static_cast<const uint4*>(from);
  return {{words.x, words.y, words.z, words.w}};
#else
  return *static_cast<const Words*>(from);
#endif
}

MOETAP_DEVICE inline float element(const AttentionTensor& tensor, int64_t place) {
  switch (tensor.type) {
    case AttentionElement::kFloat:
      return static_cast<const float*>(tensor.data)[place];
    case AttentionElement::kHalf:
      return static_cast<const c10::Half*>(tensor.data)[place];
    case AttentionElement::kBFloat16:
      return static_cast<const c10::BFloat16*>(tensor.data)[place];
    case AttentionElement::kDouble:
      return static_cast<float>(static_cast<const double*>(tensor.data)[place]);
    case AttentionElement::kBool:
      return static_cast<const bool*>(tensor.data)[place] ? 0.0F : -kInfinity;
  }
  return 0;
}

MOETAP_DEVICE inline int64_t place_of(const AttentionTensor& tensor, int64_t sequence, int64_t head, int64_t row,
                                      int64_t column) {
  return sequence * tensor.strides[0] + head * tensor.strides[1] + row * tensor.strides[2] + column * tensor.strides[3];
}

/// What a mask adds, in units of ln 2. The lowest number of a dtype, which many models write for "masked", must stay
/// finite: of a row of nothing else the softmax is even.
MOETAP_DEVICE inline float bias_of(float mask) {
  return mask == -kInfinity ? mask : fmaxf(mask * kLog2OfE, kLowest);
}

/// As `kRowUnits`.
MOETAP_DEVICE inline int64_t to_units(float value) {
  return static_cast<int64_t>(llrintf(value * kRowUnits));
}
MOETAP_DEVICE inline float from_units(int64_t units) {
  return static_cast<float>(static_cast<double>(units) / static_cast<double>(kRowUnits));
}

MOETAP_DEVICE inline bool is_finite(float value) {
  return value - value == 0;
}

/// Where a lane's values of a tile lie: rows g and g + 8, keys 8n + 2t and the next; see Note [Tiles of a product].
MOETAP_DEVICE inline int group_of_lane() {
  return warp::lane() / 4;
}
MOETAP_DEVICE inline int place_in_group() {
  return warp::lane() % 4;
}

/// Over the four lanes that hold a row.
MOETAP_DEVICE inline float sum_of_row(float value) {
  value += warp::from_lane_xor(value, 1);
  return value + warp::from_lane_xor(value, 2);
}
MOETAP_DEVICE inline float largest_of_row(float value) {
  value = fmaxf(value, warp::from_lane_xor(value, 1));
  return fmaxf(value, warp::from_lane_xor(value, 2));
}

/// Which part of a pass a block makes: `parts` of the keys of each block of rows.
struct BlockPlace {
  int32_t sequence, head, row_block, part;

  /// heads: those of blocks of their own; 1: a block makes all of them, from the first on.
  MOETAP_DEVICE BlockPlace(const AttentionKernelArguments& call, int32_t parts, int32_t heads) {
    auto rest = static_cast<int32_t>(warp::block());
    part = rest % parts;
    rest /= parts;
    row_block = rest % call.row_blocks;
    rest /= call.row_blocks;
    head = rest % heads;
    sequence = rest / heads;
  }
};

}  // namespace moetap::analysis::attention_kernel
