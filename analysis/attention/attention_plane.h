#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>

#include "analysis/attention/attention_kernels.h"

namespace moetap::analysis {

/// A tensor [B, H, rows, columns] on the CPU in plain memory; undefined: `data` is null.
struct AttentionPlane {
  const char* data = nullptr;
  at::ScalarType type = at::kFloat;
  int64_t item_size = 0;
  int64_t strides[4] = {};  // in values

  AttentionPlane() = default;
  explicit AttentionPlane(const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    data = static_cast<const char*>(tensor.const_data_ptr());
    type = tensor.scalar_type();
    item_size = static_cast<int64_t>(tensor.element_size());
    for (int64_t i = 0; i < 4; ++i) strides[i] = tensor.stride(i);
  }

  const char* at(int64_t sequence, int64_t head, int64_t row, int64_t column) const {
    return data + item_size * (sequence * strides[0] + head * strides[1] + row * strides[2] + column * strides[3]);
  }

  RealFormat format() const {
    switch (type) {
      case at::kFloat:
        return RealFormat::kFloat;
      case at::kDouble:
        return RealFormat::kDouble;
      case at::kHalf:
        return RealFormat::kHalf;
      case at::kBFloat16:
        return RealFormat::kBFloat16;
      default:
        TORCH_CHECK(false, "attention call: ", type, " is not read on the CPU; float, double, half and bfloat16 are");
    }
  }
};

/// Rows and columns of a plane that make a tile, by their numbers in the tensor.
struct TilePlaces {
  const int64_t* rows = nullptr;
  int64_t num_rows = 0;
  const int64_t* columns = nullptr;
  int64_t num_columns = 0;
};

/// tile[column * pitch + row] = the plane's values; of a bool plane 0 for true and -inf for false.
void gather_tile(const AttentionPlane& plane, int64_t sequence, int64_t head, const TilePlaces& places, int64_t pitch,
                 float* tile);

}  // namespace moetap::analysis
