#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

namespace moetap::tests {

/// Bytes with one to four changes: others, some taken out, digits, or a piece of the whole put in. Never empty.
inline std::string damaged(const std::string& whole, std::mt19937_64& random) {
  std::string bytes = whole;
  for (uint64_t changes = random() % 4 + 1; changes > 0; --changes) {
    const size_t place = random() % bytes.size();
    switch (random() % 5) {
      case 0:
        bytes[place] = static_cast<char>(random());
        break;
      case 1:
        bytes[place] = static_cast<char>(bytes[place] ^ (1 << (random() % 8)));
        break;
      case 2:
        bytes.erase(place, random() % 9);
        break;
      case 3:
        bytes.insert(place, std::string(random() % 9, static_cast<char>('0' + random() % 10)));
        break;
      default:
        bytes.insert(place, whole.substr(random() % whole.size(), random() % 20));
    }
    if (bytes.empty()) bytes = whole;
  }
  return bytes;
}

/// How many damaged inputs a test reads: MOETAP_FUZZ_ROUNDS, or `standard`.
inline int64_t fuzz_rounds(int64_t standard) {
  const char* rounds = std::getenv("MOETAP_FUZZ_ROUNDS");
  return rounds == nullptr ? standard : std::atoll(rounds);
}

}  // namespace moetap::tests
