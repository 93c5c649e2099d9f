#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "plugin/formats/frame_log.h"

namespace moetap::plugin {

/// Kinds of the frames of a `.matrices` file: metadata as JSON, then the matrices.
enum MatrixFrame : uint32_t { kMatricesBegun = 13, kMatrix = 14 };

/// What one layer's queries of one sample in one forward attend to.
struct AttentionMatrix {
  std::string name;          // see Note [Attention in full]
  at::Tensor probabilities;  // float32 [queries, keys], CPU, contiguous
};

/// A matrix as its frame holds it: u32 bytes of the name, the name, i64 queries, i64 keys, the probabilities. The views
/// are of the frame.
struct FramedMatrix {
  std::string_view name;
  int64_t queries = 0, keys = 0;
  std::string_view bytes;  // of the probabilities, row-major
};

/// The payload of a matrix's frame.
std::string to_frame(const AttentionMatrix& matrix);

/// Throws std::runtime_error that names `path`, where the frame came from, unless the frame holds a whole matrix.
FramedMatrix from_frame(const Frame& frame, const std::string& path);

}  // namespace moetap::plugin
