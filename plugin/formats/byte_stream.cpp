#include "plugin/formats/byte_stream.h"

#include <cstring>
#include <stdexcept>

namespace moetap::plugin {
namespace {

uint64_t zigzag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}

int64_t unzigzag(uint64_t value) {
  return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
}

}  // namespace

void ByteWriter::count(uint64_t value) {
  while (value >= 0x80) {
    bytes_.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  bytes_.push_back(static_cast<char>(value));
}

void ByteWriter::number(int64_t value) {
  count(zigzag(value));
}

void ByteWriter::real(double value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void ByteWriter::text(std::string_view text) {
  count(text.size());
  bytes_.append(text);
}

void ByteWriter::numbers(std::span<const int32_t> values) {
  count(values.size());
  for (const int32_t value : values) number(value);
}

void ByteWriter::reals(std::span<const float> values) {
  count(values.size());
  bytes_.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

// A run of zeros: a zero, then the length of the run.
void ByteWriter::sparse(std::span<const int64_t> values) {
  for (size_t i = 0; i < values.size();) {
    if (values[i] != 0) {
      number(values[i++]);
      continue;
    }
    const size_t begin = i;
    while (i < values.size() && values[i] == 0) ++i;
    number(0);
    count(i - begin);
  }
}

std::string_view ByteReader::raw(size_t number) {
  if (number > rest_.size()) throw std::runtime_error("a frame of the journal ends early");
  const std::string_view taken = rest_.substr(0, number);
  rest_.remove_prefix(number);
  return taken;
}

uint64_t ByteReader::count() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(raw(1)[0]);
    if (shift == 63 && byte > 1) break;  // 9 bytes hold 63 bits: the tenth has room for one
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  throw std::runtime_error("a frame of the journal holds a number of more than 64 bits");
}

int64_t ByteReader::number() {
  return unzigzag(count());
}

double ByteReader::real() {
  double value = 0;
  std::memcpy(&value, raw(sizeof(value)).data(), sizeof(value));
  return value;
}

std::string ByteReader::text() {
  return std::string(raw(count()));
}

std::vector<int32_t> ByteReader::numbers() {
  const uint64_t size = count();
  if (size > rest_.size()) throw std::runtime_error("a frame of the journal ends early");
  std::vector<int32_t> values(size);
  for (int32_t& value : values) {
    const int64_t read = number();
    value = static_cast<int32_t>(read);
    if (value != read) throw std::runtime_error("a frame of the journal holds a number of more than 32 bits");
  }
  return values;
}

std::vector<float> ByteReader::reals() {
  const uint64_t size = count();
  if (size > rest_.size() / sizeof(float)) throw std::runtime_error("a frame of the journal ends early");
  std::vector<float> values(size);
  const std::string_view source = raw(size * sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), source.data(), source.size());
  return values;
}

void ByteReader::sparse(std::span<int64_t> values) {
  for (size_t i = 0; i < values.size();) {
    const int64_t value = number();
    if (value != 0) {
      values[i++] = value;
      continue;
    }
    const uint64_t zeros = count();
    if (zeros == 0 || zeros > values.size() - i) throw std::runtime_error("a frame of the journal holds a wrong run");
    for (uint64_t n = 0; n < zeros; ++n) values[i++] = 0;
  }
}

}  // namespace moetap::plugin
