#include "analysis/attention/attention_plane.h"

#include <limits>

namespace moetap::analysis {
namespace {

template <typename Value>
float read(const Value& value) {
  if constexpr (std::is_same_v<Value, bool>) return value ? 0.0F : -std::numeric_limits<float>::infinity();
  if constexpr (!std::is_same_v<Value, bool>) return static_cast<float>(value);
}

template <typename Value>
void gather(const AttentionPlane& plane, int64_t sequence, int64_t head, const TilePlaces& places, int64_t pitch,
            float* tile) {
  const int64_t stride = plane.strides[3];
  for (int64_t r = 0; r < places.num_rows; ++r) {
    const auto* row = reinterpret_cast<const Value*>(plane.at(sequence, head, places.rows[r], 0));
    for (int64_t j = 0; j < places.num_columns; ++j) tile[j * pitch + r] = read(row[places.columns[j] * stride]);
  }
}

}  // namespace

void gather_tile(const AttentionPlane& plane, int64_t sequence, int64_t head, const TilePlaces& places, int64_t pitch,
                 float* tile) {
  if (plane.type == at::kBool) return gather<bool>(plane, sequence, head, places, pitch, tile);
  switch (plane.format()) {
    case RealFormat::kFloat:
      return gather<float>(plane, sequence, head, places, pitch, tile);
    case RealFormat::kDouble:
      return gather<double>(plane, sequence, head, places, pitch, tile);
    case RealFormat::kHalf:
      return gather<at::Half>(plane, sequence, head, places, pitch, tile);
    case RealFormat::kBFloat16:
      return gather<at::BFloat16>(plane, sequence, head, places, pitch, tile);
  }
}

}  // namespace moetap::analysis
