#include "plugin/journal/held_values.h"

#include <c10/util/SmallVector.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

#include "plugin/formats/packed_reals.h"
#include "plugin/journal/computed_slots.h"

namespace moetap::plugin {
namespace {

using analysis::HostPlane;
using analysis::HostRouterCall;

enum PlaneCode : uint64_t { kNoPlane = 0 };  // else 1 + place in kRealDtypes
// See Note [Ids and weights from logits].
enum IdCode : uint64_t { kListed, kLargestLogits, kNumIdCodes };
enum WeightCode : uint64_t { kAsTheyAre, kSoftmaxOfSlots, kSoftmaxOfAll, kNumWeightCodes };

SoftmaxOver softmax_of(uint64_t code) {
  return code == kSoftmaxOfSlots ? SoftmaxOver::kSlots : SoftmaxOver::kAllExperts;
}

constexpr int64_t kMostFloatsAway = 63;  // what a signed number of one byte holds

[[noreturn]] void refuse(const char* what) {
  throw std::runtime_error(std::string("a frame of the journal holds held calls with ") + what);
}

const char* row_of(const HostPlane& plane, int64_t token) {
  return static_cast<const char*>(plane.data) +
         token * plane.row_stride * static_cast<int64_t>(c10::elementSize(plane.dtype));
}

std::span<const float> floats_of(const HostPlane& plane, int64_t token, int64_t columns) {
  return {reinterpret_cast<const float*>(row_of(plane, token)), static_cast<size_t>(columns)};
}

std::span<const int32_t> ids_of(const HostRouterCall& call, int64_t token) {
  return {reinterpret_cast<const int32_t*>(row_of(call.selected, token)), static_cast<size_t>(call.top_k)};
}

void encode_plane(ByteWriter& bytes, const HostPlane& plane, int64_t num_tokens, int64_t columns) {
  for (int64_t token = 0; token < num_tokens; ++token) {
    if (plane.dtype == c10::ScalarType::Float) {
      write_packed(bytes, floats_of(plane, token, columns));
    } else {
      bytes.raw({row_of(plane, token), static_cast<size_t>(columns) * c10::elementSize(plane.dtype)});
    }
  }
}

void encode_dtype(ByteWriter& bytes, const HostPlane& plane) {
  bytes.count(plane.defined() ? 1 + static_cast<uint64_t>(analysis::real_format(plane.dtype).value()) : kNoPlane);
}

IdCode id_code(const HostRouterCall& call, const std::optional<CallLogits>& logits) {
  if (!logits) return kListed;
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    if (!are_largest(logits->of_token(token), ids_of(call, token))) return kListed;
  }
  return kLargestLogits;
}

int64_t distance(float value, float computed) {
  return static_cast<int64_t>(std::bit_cast<int32_t>(value)) - std::bit_cast<int32_t>(computed);
}

using Distances = c10::SmallVector<int64_t, 32>;

/// The distances of all weights from what is computed here. False: one is too large.
bool find_distances(const HostRouterCall& call, const CallLogits& logits, SoftmaxOver over, Distances& distances) {
  c10::SmallVector<float, 16> computed(static_cast<size_t>(call.top_k));
  distances.clear();
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    const std::span<float> of_token(computed.data(), computed.size());
    if (!compute_weights(logits.of_token(token), ids_of(call, token), over, of_token)) return false;
    const auto weights = floats_of(call.weights, token, call.top_k);
    for (size_t slot = 0; slot < weights.size(); ++slot) {
      distances.push_back(distance(weights[slot], computed[slot]));
      if (std::abs(distances.back()) > kMostFloatsAway) return false;
    }
  }
  return true;
}

void encode_weights(ByteWriter& bytes, const HostRouterCall& call, const std::optional<CallLogits>& logits) {
  Distances distances;
  if (logits && call.weights.dtype == c10::ScalarType::Float) {
    for (const WeightCode code : {kSoftmaxOfSlots, kSoftmaxOfAll}) {
      if (!find_distances(call, *logits, softmax_of(code), distances)) continue;
      bytes.count(code);
      for (const int64_t floats_away : distances) bytes.number(floats_away);
      return;
    }
  }
  bytes.count(kAsTheyAre);
  encode_plane(bytes, call.weights, call.num_tokens, call.top_k);
}

void encode_ids(ByteWriter& bytes, const HostRouterCall& call, const std::optional<CallLogits>& logits) {
  const IdCode code = id_code(call, logits);
  bytes.count(code);
  if (code == kLargestLogits) return;
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    for (const int32_t id : ids_of(call, token)) bytes.count(static_cast<uint64_t>(id + 1));
  }
}

/// Places for the planes of a decoded call, in one piece of memory.
class CallMemory {
 public:
  void add(HostPlane& plane, int64_t columns) { planes_.push_back({&plane, columns}); }
  std::shared_ptr<const void> allocate(int64_t num_tokens) {
    constexpr size_t kAlignment = alignof(double);
    size_t size = 0;
    std::vector<size_t> begins;
    for (const auto& [plane, columns] : planes_) {
      begins.push_back(size);
      const size_t bytes = static_cast<size_t>(num_tokens * columns) * c10::elementSize(plane->dtype);
      size += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    }
    auto memory = std::make_shared<std::vector<double>>(size / sizeof(double) + 1);
    for (size_t i = 0; i < planes_.size(); ++i) {
      planes_[i].plane->data = reinterpret_cast<char*>(memory->data()) + begins[i];
      planes_[i].plane->row_stride = planes_[i].columns;
    }
    return memory;
  }

 private:
  struct Place {
    HostPlane* plane;
    int64_t columns;
  };
  std::vector<Place> planes_;
};

char* to_write(const HostPlane& plane, int64_t token) {
  return const_cast<char*>(row_of(plane, token));
}

void decode_plane(ByteReader& bytes, const HostPlane& plane, int64_t num_tokens, int64_t columns) {
  for (int64_t token = 0; token < num_tokens; ++token) {
    if (plane.dtype == c10::ScalarType::Float) {
      read_packed(bytes, {reinterpret_cast<float*>(to_write(plane, token)), static_cast<size_t>(columns)});
    } else {
      const auto row = bytes.raw(static_cast<size_t>(columns) * c10::elementSize(plane.dtype));
      std::memcpy(to_write(plane, token), row.data(), row.size());
    }
  }
}

void decode_ids(ByteReader& bytes, const HostRouterCall& call, const std::optional<CallLogits>& logits) {
  const uint64_t code = bytes.count();
  if (code >= kNumIdCodes || (code == kLargestLogits && !logits)) refuse("ids of no kind");
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    auto* ids = reinterpret_cast<int32_t*>(to_write(call.selected, token));
    if (code == kLargestLogits) {
      const std::vector<int32_t> largest = largest_logits(logits->of_token(token), call.top_k);
      std::copy(largest.begin(), largest.end(), ids);
      continue;
    }
    for (int64_t slot = 0; slot < call.top_k; ++slot) {
      const uint64_t id = bytes.count();
      if (id > static_cast<uint64_t>(call.num_experts)) refuse("an id that is no expert");
      ids[slot] = static_cast<int32_t>(id) - 1;
    }
  }
}

void decode_weights(ByteReader& bytes, const HostRouterCall& call, const std::optional<CallLogits>& logits) {
  const uint64_t code = bytes.count();
  const bool is_known = code == kAsTheyAre || (logits && call.weights.dtype == c10::ScalarType::Float);
  if (code >= kNumWeightCodes || !is_known) refuse("weights of no kind");
  if (code == kAsTheyAre) {
    decode_plane(bytes, call.weights, call.num_tokens, call.top_k);
    return;
  }
  std::vector<float> computed(static_cast<size_t>(call.top_k));
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    if (!compute_weights(logits->of_token(token), ids_of(call, token), softmax_of(code), computed)) {
      refuse("weights of no kind");
    }
    auto* weights = reinterpret_cast<float*>(to_write(call.weights, token));
    for (size_t slot = 0; slot < computed.size(); ++slot) {
      const int64_t bits = std::bit_cast<int32_t>(computed[slot]) + bytes.number();
      weights[slot] = std::bit_cast<float>(static_cast<int32_t>(bits));
    }
  }
}

bool decode_dtype(ByteReader& bytes, HostPlane& plane) {
  const uint64_t code = bytes.count();
  if (code > analysis::kRealDtypes.size()) refuse("values of no dtype");
  if (code != kNoPlane) plane.dtype = analysis::kRealDtypes[code - 1];
  return code != kNoPlane;
}

}  // namespace

void encode_values(ByteWriter& bytes, const HostRouterCall& call) {
  bytes.count(static_cast<uint64_t>(call.num_tokens));
  bytes.count(static_cast<uint64_t>(call.num_experts));
  bytes.count(static_cast<uint64_t>(call.top_k));
  bytes.count(call.sigmoid_scores);
  for (const HostPlane* plane : {&call.logits, &call.scores, &call.weights}) encode_dtype(bytes, *plane);
  if (call.logits.defined()) encode_plane(bytes, call.logits, call.num_tokens, call.num_experts);
  const std::optional<CallLogits> logits = CallLogits::of(call);
  encode_ids(bytes, call, logits);
  if (call.scores.defined()) encode_plane(bytes, call.scores, call.num_tokens, call.num_experts);
  if (call.weights.defined()) encode_weights(bytes, call, logits);
}

OwnedCall decode_values(ByteReader& bytes) {
  OwnedCall decoded;
  HostRouterCall& call = decoded.call;
  const auto size = [&](int64_t least) {
    const uint64_t value = bytes.count();
    if (value < static_cast<uint64_t>(least) || value > std::numeric_limits<int32_t>::max()) refuse("a wrong size");
    return static_cast<int64_t>(value);
  };
  call.num_tokens = size(0);
  call.num_experts = size(1);
  call.top_k = size(0);
  call.sigmoid_scores = bytes.count() != 0;
  CallMemory memory;
  call.selected.dtype = c10::ScalarType::Int;
  memory.add(call.selected, call.top_k);
  if (decode_dtype(bytes, call.logits)) memory.add(call.logits, call.num_experts);
  if (decode_dtype(bytes, call.scores)) memory.add(call.scores, call.num_experts);
  if (decode_dtype(bytes, call.weights)) memory.add(call.weights, call.top_k);
  // A float takes a bit or more, so the frame tells how many values there can be.
  const auto most = static_cast<int64_t>(bytes.size()) * 8;
  if (call.num_tokens > 0 && (call.num_experts > most / call.num_tokens || call.top_k > most / call.num_tokens)) {
    refuse("a wrong size");
  }
  decoded.memory = memory.allocate(call.num_tokens);
  if (call.logits.defined()) decode_plane(bytes, call.logits, call.num_tokens, call.num_experts);
  const std::optional<CallLogits> logits = CallLogits::of(call);
  decode_ids(bytes, call, logits);
  if (call.scores.defined()) decode_plane(bytes, call.scores, call.num_tokens, call.num_experts);
  if (call.weights.defined()) decode_weights(bytes, call, logits);
  return decoded;
}

}  // namespace moetap::plugin
