#include "plugin/formats/checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace moetap::plugin {

uint64_t checksum(uint64_t seed, std::string_view bytes) {
  constexpr uint64_t kPrime = 0x9E3779B97F4A7C15;
  uint64_t sum = (bytes.size() + 1) * kPrime ^ seed;
  while (!bytes.empty()) {
    uint64_t word = 0;
    const size_t taken = std::min(bytes.size(), sizeof(word));
    std::memcpy(&word, bytes.data(), taken);
    bytes.remove_prefix(taken);
    sum = std::rotl(sum ^ word, 29) * kPrime;
  }
  return sum ^ (sum >> 32);
}

}  // namespace moetap::plugin
