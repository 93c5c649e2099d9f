#pragma once

#include <cstdint>
#include <optional>

#include "analysis/numbers/token_kernels.h"
#include "analysis/routers/host_call.h"

namespace moetap::analysis {

/// How the reals of a plane are stored.
RealFormat format_of(const HostPlane& plane);

/// The address of a token's values.
const void* values_of(const HostPlane& plane, int64_t token);

/// The tokens of a plane, for loops over them; of one that the call does not have nothing may be asked.
class PlaneRows {
 public:
  explicit PlaneRows(const HostPlane& plane)
      : begin_(static_cast<const char*>(plane.data)),
        row_bytes_(plane.defined() ? plane.row_stride * static_cast<int64_t>(c10::elementSize(plane.dtype)) : 0),
        format_(real_format(plane.dtype)) {}

  bool defined() const { return begin_ != nullptr; }
  const void* of(int64_t token) const { return begin_ + token * row_bytes_; }
  /// Of a plane of reals.
  RealFormat format() const { return *format_; }

 private:
  const char* begin_;
  int64_t row_bytes_;
  std::optional<RealFormat> format_;
};

inline bool is_expert(int64_t id, int64_t num_experts) {
  return static_cast<uint64_t>(id) < static_cast<uint64_t>(num_experts);
}

/// Writes the ids and weights of tokens [begin, end) as they are recorded.
void write_slots(const HostRouterCall& call, int64_t begin, int64_t end, const HostTokenOutputs& outputs);

}  // namespace moetap::analysis
