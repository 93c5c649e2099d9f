#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>

namespace moetap::plugin {

/// Bytes with something wrong: cut at random, a few bytes changed in the first `header` ones, or bytes put in.
inline std::string damaged(std::string bytes, size_t header, std::mt19937& random) {
  const auto below = [&](size_t end) { return end == 0 ? 0 : random() % end; };
  switch (random() % 3) {
    case 0:
      bytes.resize(below(bytes.size()));
      break;
    case 1:
      for (size_t left = 1 + below(3); left > 0; --left) {
        bytes[below(std::min(header, bytes.size()))] = static_cast<char>(random());
      }
      break;
    default:
      bytes.insert(below(bytes.size()), std::string(1 + below(9), static_cast<char>(random())));
  }
  return bytes;
}

}  // namespace moetap::plugin
