#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "emulated_warp.h"

// The functions of analysis/numbers/matrix_tiles.cuh for emulated warps: see Note [Emulated warps]. The lanes show each
// other their words, and each makes its four sums. Order and rounding of the additions are not those of a GPU.
namespace moetap::analysis::warp {

struct Operands {
  uint32_t a[4], b[2];
};

/// The operands of all lanes. Each lane writes its own and waits for the others; two sets take turns, since slow lanes
/// still read the one of before.
inline const Operands* exchange_operands(const char* function, const Operands& own) {
  constexpr int kMaxWarps = 32;
  static Operands words[kMaxWarps][2][kLanes];
  static int turns[kMaxWarps][kLanes];
  const int warp = warp_of_block(), turn = turns[warp][lane()];
  turns[warp][lane()] = 1 - turn;
  words[warp][turn][lane()] = own;
  // A lane that comes from another block or launch may have another turn: all must have the same.
  const uint64_t* of_lanes = EmulatedBlock::current().exchange(function, static_cast<uint64_t>(turn));
  for (int l = 0; l < kLanes; ++l) {
    if (of_lanes[l] != static_cast<uint64_t>(turn)) std::abort();
  }
  return words[warp][turn];
}

/// kValues of a word each: 2 of 16 bits or 1 of 32. See Note [Tiles of a product].
template <int kValues, typename Read>
void multiply_words(const char* function, float (&sums)[4], const Operands& own, const Read& read) {
  const Operands* of = exchange_operands(function, own);
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = i / 2, column = 2 * t + i % 2;  // row g or g + 8
    double sum = sums[i];
    for (int from = 0; from < 4; ++from) {
      const Operands &a = of[4 * g + from], &b = of[4 * column + from];
      for (int half = 0; half < 2; ++half) {
        for (int value = 0; value < kValues; ++value) {
          sum += double{read(a.a[row + 2 * half], value)} * double{read(b.b[half], value)};
        }
      }
    }
    sums[i] = static_cast<float>(sum);
  }
}

inline void multiply_halves(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                            uint32_t b1) {
  multiply_words<2>("multiply_halves", sums, {{a0, a1, a2, a3}, {b0, b1}}, [](uint32_t word, int value) {
    return static_cast<float>(c10::Half(static_cast<uint16_t>(word >> 16 * value), c10::Half::from_bits()));
  });
}
inline void multiply_bfloats(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                             uint32_t b1) {
  multiply_words<2>("multiply_bfloats", sums, {{a0, a1, a2, a3}, {b0, b1}},
                    [](uint32_t word, int value) { return std::bit_cast<float>(word >> 16 * value << 16); });
}
inline void multiply_short_floats(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                  uint32_t b1) {
  multiply_words<1>("multiply_short_floats", sums, {{a0, a1, a2, a3}, {b0, b1}},
                    [](uint32_t word, int) { return std::bit_cast<float>(word & 0xffffe000U); });
}

inline uint32_t pack_halves(float first, float second) {
  return uint32_t{c10::Half(first).x} | uint32_t{c10::Half(second).x} << 16;
}
struct TwoFloats {
  float first, second;
};
inline TwoFloats unpack_halves(uint32_t word) {
  return {static_cast<float>(c10::Half(static_cast<uint16_t>(word), c10::Half::from_bits())),
          static_cast<float>(c10::Half(static_cast<uint16_t>(word >> 16), c10::Half::from_bits()))};
}
inline float approximate_exp2(float x) {
  const float power = std::exp2(x);
  return power < 0x1p-126F ? 0 : power;  // NaN stays
}
inline float approximate_log2(float x) {
  return std::log2(x);
}
inline void raise(int64_t* word, int64_t value) {
  *word = std::max(*word, value);
}
inline void set_bits(int32_t* word, int32_t bits) {
  *word |= bits;
}

}  // namespace moetap::analysis::warp
