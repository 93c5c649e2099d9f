#include "plugin/dump/matrix_frames.h"

#include <cstring>
#include <stdexcept>

namespace moetap::plugin {
namespace {

constexpr size_t kNumbersBytes = 2 * sizeof(int64_t);

}  // namespace

std::string to_frame(const AttentionMatrix& matrix) {
  const auto name_bytes = static_cast<uint32_t>(matrix.name.size());
  const int64_t sizes[2] = {matrix.probabilities.size(0), matrix.probabilities.size(1)};
  std::string payload(reinterpret_cast<const char*>(&name_bytes), sizeof(name_bytes));
  payload += matrix.name;
  payload.append(reinterpret_cast<const char*>(sizes), sizeof(sizes));
  payload.append(static_cast<const char*>(matrix.probabilities.const_data_ptr()), matrix.probabilities.nbytes());
  return payload;
}

FramedMatrix from_frame(const Frame& frame, const std::string& path) {
  const std::string_view payload = frame.payload;
  uint32_t name_bytes = 0;
  FramedMatrix matrix;
  if (payload.size() >= sizeof(name_bytes)) std::memcpy(&name_bytes, payload.data(), sizeof(name_bytes));
  const size_t numbers = sizeof(name_bytes) + size_t{name_bytes};
  if (payload.size() < numbers + kNumbersBytes)
    throw std::runtime_error("cannot read " + path + ": a frame ends early");
  matrix.name = payload.substr(sizeof(name_bytes), name_bytes);
  std::memcpy(&matrix.queries, payload.data() + numbers, sizeof(int64_t));
  std::memcpy(&matrix.keys, payload.data() + numbers + sizeof(int64_t), sizeof(int64_t));
  matrix.bytes = payload.substr(numbers + kNumbersBytes);
  if (static_cast<int64_t>(matrix.bytes.size()) != matrix.queries * matrix.keys * int64_t{sizeof(float)}) {
    throw std::runtime_error("cannot read " + path + ": a matrix has not the size that its frame says");
  }
  return matrix;
}

}  // namespace moetap::plugin
