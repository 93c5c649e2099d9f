#include "analysis/routers/host_planes.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <algorithm>

namespace moetap::analysis {
namespace {

/// Calls write(values, place in the outputs, number) for each row, or once for all of them if nothing lies between.
template <typename From, typename Write>
void for_rows(const HostPlane& plane, int64_t begin, int64_t end, int64_t columns, const Write& write) {
  const PlaneRows rows(plane);
  const bool in_one_piece = plane.row_stride == columns;
  const int64_t step = in_one_piece ? std::max<int64_t>(1, end - begin) : 1;
  for (int64_t token = begin; token < end; token += step) {
    write(static_cast<const From*>(rows.of(token)), token * columns, step * columns);
  }
}

template <typename Id>
void write_ids(const HostRouterCall& call, int64_t begin, int64_t end, int32_t* out) {
  const auto write = [&](const Id* ids, int64_t place, int64_t number) {
    for (int64_t i = 0; i < number; ++i) {
      out[place + i] = is_expert(ids[i], call.num_experts) ? static_cast<int32_t>(ids[i]) : -1;
    }
  };
  for_rows<Id>(call.selected, begin, end, call.top_k, write);
}

template <typename From>
void write_floats(const HostRouterCall& call, int64_t begin, int64_t end, float* out) {
  const auto write = [&](const From* values, int64_t place, int64_t number) {
    std::copy_n(values, number, out + place);
  };
  for_rows<From>(call.weights, begin, end, call.top_k, write);
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

void write_slots(const HostRouterCall& call, int64_t begin, int64_t end, const HostTokenOutputs& outputs) {
  if (outputs.selected != nullptr) {
    if (call.selected.dtype == c10::ScalarType::Int) {
      write_ids<int32_t>(call, begin, end, outputs.selected);
    } else {
      write_ids<int64_t>(call, begin, end, outputs.selected);
    }
  }
  if (outputs.weights == nullptr) return;
  switch (format_of(call.weights)) {
    case RealFormat::kFloat:
      return write_floats<float>(call, begin, end, outputs.weights);
    case RealFormat::kDouble:
      return write_floats<double>(call, begin, end, outputs.weights);
    case RealFormat::kHalf:
      return write_floats<c10::Half>(call, begin, end, outputs.weights);
    case RealFormat::kBFloat16:
      return write_floats<c10::BFloat16>(call, begin, end, outputs.weights);
  }
}

}  // namespace moetap::analysis
