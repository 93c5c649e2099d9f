#include "plugin/journal/held_values.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "analysis/numbers/vector_math.h"
#include "plugin/formats/packed_reals.h"

// Note [Ids and weights from logits]
// Most routers take the largest logits: then their ids are not written.
//
// Most routers' weights are the softmax of the logits, of all experts or of the chosen ones, but for the last bits.
// Then a weight is written as its distance from what is computed here, counted in floats: one byte instead of four. The
// computation has the same bits wherever it runs: this file is compiled without contraction (CMakeLists.txt).
namespace moetap::plugin {
namespace {

using analysis::HostPlane;
using analysis::HostRouterCall;

// In the order of their codes in the journal.
constexpr std::array kDtypes = {c10::ScalarType::Float, c10::ScalarType::Double, c10::ScalarType::Half,
                                c10::ScalarType::BFloat16};

enum PlaneCode : uint64_t { kNoPlane = 0 };  // else 1 + place in kDtypes
enum IdCode : uint64_t { kListed, kLargestLogits, kNumIdCodes };
enum WeightCode : uint64_t { kAsTheyAre, kSoftmaxOfSlots, kSoftmaxOfAll, kNumWeightCodes };

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

const int32_t* ids_of(const HostRouterCall& call, int64_t token) {
  return reinterpret_cast<const int32_t*>(row_of(call.selected, token));
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
  const auto place = std::find(kDtypes.begin(), kDtypes.end(), plane.dtype) - kDtypes.begin();
  bytes.count(plane.defined() ? 1 + static_cast<uint64_t>(place) : kNoPlane);
}

bool can_use_logits(const HostRouterCall& call) {
  return call.logits.defined() && call.logits.dtype != c10::ScalarType::Double;
}

/// The logits of a token.
std::vector<float> read_logits(const HostRouterCall& call, int64_t token) {
  std::vector<float> logits(static_cast<size_t>(call.num_experts));
  const void* row = row_of(call.logits, token);
  switch (call.logits.dtype) {
    case c10::ScalarType::Half:
      std::copy_n(static_cast<const c10::Half*>(row), logits.size(), logits.begin());
      break;
    case c10::ScalarType::BFloat16:
      std::copy_n(static_cast<const c10::BFloat16*>(row), logits.size(), logits.begin());
      break;
    default:
      std::copy_n(static_cast<const float*>(row), logits.size(), logits.begin());
  }
  return logits;
}

/// The ids of the largest logits in descending order, ties to the lower id; -1 where none is left that is a number.
std::vector<int32_t> largest_logits(const HostRouterCall& call, int64_t token) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  std::vector<float> logits = read_logits(call, token);
  std::vector<int32_t> ids;
  for (int64_t slot = 0; slot < call.top_k; ++slot) {
    float largest = kNone;
    int32_t id = -1;
    for (size_t expert = 0; expert < logits.size(); ++expert) {
      if (logits[expert] > largest) {
        largest = logits[expert];
        id = static_cast<int32_t>(expert);
      }
    }
    if (id >= 0) logits[static_cast<size_t>(id)] = kNone;
    ids.push_back(id);
  }
  return ids;
}

IdCode id_code(const HostRouterCall& call) {
  if (!can_use_logits(call)) return kListed;
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    const std::vector<int32_t> ids = largest_logits(call, token);
    if (!std::equal(ids.begin(), ids.end(), ids_of(call, token))) return kListed;
  }
  return kLargestLogits;
}

/// What the weights of a token would be. False: the logits or ids do not allow it.
bool compute_weights(const HostRouterCall& call, int64_t token, WeightCode code, std::vector<float>& weights) {
  const std::vector<float> logits = read_logits(call, token);
  const int32_t* ids = ids_of(call, token);
  const float largest = *std::max_element(logits.begin(), logits.end());
  if (!std::isfinite(largest)) return false;
  const auto power = [&](float logit) {
    return analysis::exp_nonpositive(static_cast<double>(logit) - static_cast<double>(largest));
  };
  double sum = 0;
  for (int64_t slot = 0; slot < call.top_k; ++slot) {
    if (ids[slot] < 0) return false;
    const double value = power(logits[static_cast<size_t>(ids[slot])]);
    weights[static_cast<size_t>(slot)] = static_cast<float>(value);
    if (code == kSoftmaxOfSlots) sum += value;
  }
  if (code == kSoftmaxOfAll) {
    for (const float logit : logits) sum += power(logit);
  }
  for (int64_t slot = 0; slot < call.top_k; ++slot) {
    const double value = power(logits[static_cast<size_t>(ids[slot])]);
    weights[static_cast<size_t>(slot)] = static_cast<float>(value / sum);
  }
  return true;
}

int64_t distance(float value, float computed) {
  return static_cast<int64_t>(std::bit_cast<int32_t>(value)) - std::bit_cast<int32_t>(computed);
}

bool can_compute_weights(const HostRouterCall& call) {
  return call.weights.dtype == c10::ScalarType::Float && can_use_logits(call);
}

WeightCode weight_code(const HostRouterCall& call) {
  if (!can_compute_weights(call)) return kAsTheyAre;
  std::vector<float> computed(static_cast<size_t>(call.top_k));
  const auto is_near = [&](WeightCode code) {
    for (int64_t token = 0; token < call.num_tokens; ++token) {
      if (!compute_weights(call, token, code, computed)) return false;
      const auto weights = floats_of(call.weights, token, call.top_k);
      for (size_t slot = 0; slot < weights.size(); ++slot) {
        if (std::abs(distance(weights[slot], computed[slot])) > kMostFloatsAway) return false;
      }
    }
    return true;
  };
  return is_near(kSoftmaxOfSlots) ? kSoftmaxOfSlots : is_near(kSoftmaxOfAll) ? kSoftmaxOfAll : kAsTheyAre;
}

void encode_weights(ByteWriter& bytes, const HostRouterCall& call) {
  const WeightCode code = weight_code(call);
  bytes.count(code);
  if (code == kAsTheyAre) {
    encode_plane(bytes, call.weights, call.num_tokens, call.top_k);
    return;
  }
  std::vector<float> computed(static_cast<size_t>(call.top_k));
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    compute_weights(call, token, code, computed);
    const auto weights = floats_of(call.weights, token, call.top_k);
    for (size_t slot = 0; slot < weights.size(); ++slot) bytes.number(distance(weights[slot], computed[slot]));
  }
}

void encode_ids(ByteWriter& bytes, const HostRouterCall& call) {
  const IdCode code = id_code(call);
  bytes.count(code);
  if (code == kLargestLogits) return;
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    const int32_t* ids = ids_of(call, token);
    for (int64_t slot = 0; slot < call.top_k; ++slot) bytes.count(static_cast<uint64_t>(ids[slot] + 1));
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

void decode_ids(ByteReader& bytes, const HostRouterCall& call) {
  const uint64_t code = bytes.count();
  if (code >= kNumIdCodes || (code == kLargestLogits && !can_use_logits(call))) refuse("ids of no kind");
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    auto* ids = reinterpret_cast<int32_t*>(to_write(call.selected, token));
    if (code == kLargestLogits) {
      const std::vector<int32_t> largest = largest_logits(call, token);
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

void decode_weights(ByteReader& bytes, const HostRouterCall& call) {
  const uint64_t code = bytes.count();
  if (code >= kNumWeightCodes || (code != kAsTheyAre && !can_compute_weights(call))) refuse("weights of no kind");
  if (code == kAsTheyAre) {
    decode_plane(bytes, call.weights, call.num_tokens, call.top_k);
    return;
  }
  std::vector<float> computed(static_cast<size_t>(call.top_k));
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    if (!compute_weights(call, token, static_cast<WeightCode>(code), computed)) refuse("weights of no kind");
    auto* weights = reinterpret_cast<float*>(to_write(call.weights, token));
    for (size_t slot = 0; slot < computed.size(); ++slot) {
      const int64_t bits = std::bit_cast<int32_t>(computed[slot]) + bytes.number();
      weights[slot] = std::bit_cast<float>(static_cast<int32_t>(bits));
    }
  }
}

bool decode_dtype(ByteReader& bytes, HostPlane& plane) {
  const uint64_t code = bytes.count();
  if (code > kDtypes.size()) refuse("values of no dtype");
  if (code != kNoPlane) plane.dtype = kDtypes[code - 1];
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
  encode_ids(bytes, call);
  if (call.scores.defined()) encode_plane(bytes, call.scores, call.num_tokens, call.num_experts);
  if (call.weights.defined()) encode_weights(bytes, call);
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
  decode_ids(bytes, call);
  if (call.scores.defined()) decode_plane(bytes, call.scores, call.num_tokens, call.num_experts);
  if (call.weights.defined()) decode_weights(bytes, call);
  return decoded;
}

}  // namespace moetap::plugin
