#include "analysis/routers/host_planes.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <algorithm>

namespace moetap::analysis {
namespace {

template <typename From, typename To>
void copy_row(const HostPlane& plane, int64_t token, int64_t columns, To* out) {
  std::copy_n(static_cast<const From*>(values_of(plane, token)), columns, out);
}

void read_floats(const HostPlane& plane, int64_t token, int64_t columns, float* out) {
  switch (format_of(plane)) {
    case RealFormat::kFloat:
      return copy_row<float>(plane, token, columns, out);
    case RealFormat::kDouble:
      return copy_row<double>(plane, token, columns, out);
    case RealFormat::kHalf:
      return copy_row<c10::Half>(plane, token, columns, out);
    case RealFormat::kBFloat16:
      return copy_row<c10::BFloat16>(plane, token, columns, out);
  }
}

}  // namespace

RealFormat format_of(const HostPlane& plane) {
  const auto format = real_format(plane.dtype);
  TORCH_INTERNAL_ASSERT(format, "a host plane of ", plane.dtype);
  return *format;
}

const void* values_of(const HostPlane& plane, int64_t token) {
  const auto element = static_cast<int64_t>(c10::elementSize(plane.dtype));
  return static_cast<const char*>(plane.data) + token * plane.row_stride * element;
}

void write_slots(const HostRouterCall& call, int64_t token, const HostTokenOutputs& outputs) {
  const int64_t begin = token * call.top_k;
  if (outputs.selected != nullptr) {
    const auto write = [&](const auto* ids) {
      for (int64_t slot = 0; slot < call.top_k; ++slot) {
        outputs.selected[begin + slot] = is_expert(ids[slot], call.num_experts) ? static_cast<int32_t>(ids[slot]) : -1;
      }
    };
    if (call.selected.dtype == c10::ScalarType::Int) {
      write(static_cast<const int32_t*>(values_of(call.selected, token)));
    } else {
      write(static_cast<const int64_t*>(values_of(call.selected, token)));
    }
  }
  if (outputs.weights != nullptr) read_floats(call.weights, token, call.top_k, outputs.weights + begin);
}

}  // namespace moetap::analysis
