#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace moetap::analysis::studies {

// Note [Seeded random numbers]
// Results must be the same on every machine and for every split of the input, so the numbers come from here and not
// from the standard library, whose distributions differ. The generator is SplitMix64 (Steele, Lea, Flood, "Fast
// splittable pseudorandom number generators", OOPSLA 2014): the state grows by a constant, the output is the state
// mixed. A stream is named by a seed and a text, so that a group's draws do not depend on which other groups there are.

class SeededRandom {
 public:
  SeededRandom(uint64_t seed, std::string_view stream) : state_(mix(seed)) {
    for (const char letter : stream) state_ = mix(state_ ^ static_cast<unsigned char>(letter));
  }

  uint64_t next() { return mix(state_ += kStep); }

  /// A number in [0, bound), bound > 0, each equally likely: the high half of next() * bound, drawn again in the rare
  /// case that would favour some (Lemire, "Fast random integer generation in an interval", 2019).
  uint64_t below(uint64_t bound) {
    __extension__ using Wide = unsigned __int128;
    const uint64_t rejected = (0 - bound) % bound;
    for (;;) {
      const Wide product = static_cast<Wide>(next()) * bound;
      if (static_cast<uint64_t>(product) >= rejected) return static_cast<uint64_t>(product >> 64);
    }
  }

  /// Moves a random choice of `count` of the elements to the front (Fisher and Yates, as far as needed).
  void choose(std::vector<uint32_t>& elements, size_t count) {
    for (size_t i = 0; i < count; ++i) std::swap(elements[i], elements[i + below(elements.size() - i)]);
  }

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
  static uint64_t mix(uint64_t z) {
    z += kStep;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  uint64_t state_;
};

}  // namespace moetap::analysis::studies
