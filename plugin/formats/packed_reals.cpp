#include "plugin/formats/packed_reals.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace moetap::plugin {
namespace {

constexpr int kMantissaBits = 23, kExponentBits = 8;
constexpr int kLongExponent = 8;

uint32_t exponent_of(uint32_t bits) {
  return bits >> kMantissaBits & 0xFF;
}

/// Bits, the least significant of a byte first.
class BitWriter {
 public:
  /// Each `put` may touch eight bytes behind those that it fills.
  explicit BitWriter(char* to) : to_(to) {}

  /// `count` <= 56.
  void put(uint64_t bits, int count) {
    pending_ |= bits << num_pending_;
    num_pending_ += count;
    std::memcpy(to_, &pending_, sizeof(pending_));
    to_ += num_pending_ / 8;
    pending_ >>= num_pending_ / 8 * 8;
    num_pending_ %= 8;
  }
  /// Behind the last bit.
  char* end() const { return to_ + (num_pending_ > 0 ? 1 : 0); }

 private:
  char* to_;
  uint64_t pending_ = 0;
  int num_pending_ = 0;  // < 8
};
static_assert(std::endian::native == std::endian::little, "pending bits are written as they lie in memory");

class BitReader {
 public:
  explicit BitReader(ByteReader& bytes) : bytes_(bytes) {}

  /// `count` <= 32.
  uint32_t take(int count) {
    while (num_pending_ < count) {
      pending_ |= static_cast<uint64_t>(static_cast<unsigned char>(bytes_.raw(1)[0])) << num_pending_;
      num_pending_ += 8;
    }
    const auto bits = static_cast<uint32_t>(pending_ & ((uint64_t{1} << count) - 1));
    pending_ >>= count;
    num_pending_ -= count;
    return bits;
  }

 private:
  ByteReader& bytes_;
  uint64_t pending_ = 0;
  int num_pending_ = 0;
};

}  // namespace

void write_packed(ByteWriter& bytes, std::span<const float> values) {
  uint32_t largest = 0, all = 0;
  for (const float value : values) {
    const auto bits = std::bit_cast<uint32_t>(value);
    largest = std::max(largest, exponent_of(bits));
    all |= bits;
  }
  const int kept = kMantissaBits - std::min(std::countr_zero(all), kMantissaBits);
  constexpr size_t kMostBytes = (kLongExponent + kExponentBits + 1 + kMantissaBits) / 8;  // of a value
  bytes.fill(values.size() * kMostBytes + 2 + sizeof(uint64_t), [&](char* to) {
    BitWriter packed(to);
    packed.put(static_cast<uint64_t>(kept) | uint64_t{largest} << 8, 16);
    for (const float value : values) {
      const auto bits = std::bit_cast<uint32_t>(value);
      const auto below = static_cast<int>(largest - exponent_of(bits));
      const int half = below / 2;
      const bool is_long = half >= kLongExponent;
      const uint64_t exponent = is_long ? uint64_t{exponent_of(bits)} << kLongExponent
                                        : uint64_t{1} << half | static_cast<uint64_t>(below % 2) << (half + 1);
      const int exponent_bits = is_long ? kLongExponent + kExponentBits : half + 2;
      const uint64_t rest = bits >> 31 | uint64_t{(bits & 0x7FFFFF) >> (kMantissaBits - kept)} << 1;
      packed.put(exponent | rest << exponent_bits, exponent_bits + 1 + kept);
    }
    return static_cast<size_t>(packed.end() - to);
  });
}

void read_packed(ByteReader& bytes, std::span<float> values) {
  BitReader packed(bytes);
  const auto kept = static_cast<int>(packed.take(8));
  const uint32_t largest = packed.take(8);
  if (kept > kMantissaBits) throw std::runtime_error("a frame of the journal holds floats of too many bits");
  for (float& value : values) {
    uint32_t half = 0;
    while (half < kLongExponent && packed.take(1) == 0) ++half;
    const uint32_t exponent = half < kLongExponent ? largest - 2 * half - packed.take(1) : packed.take(kExponentBits);
    if (exponent > 0xFF) throw std::runtime_error("a frame of the journal holds a wrong exponent");
    const uint32_t sign = packed.take(1);
    const uint32_t mantissa = packed.take(kept) << (kMantissaBits - kept);
    value = std::bit_cast<float>(sign << 31 | exponent << kMantissaBits | mantissa);
  }
}

}  // namespace moetap::plugin
