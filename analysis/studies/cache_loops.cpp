#include "analysis/studies/cache_loops.h"

#include <algorithm>
#include <bit>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MOETAP_INLINE __attribute__((always_inline)) inline

namespace moetap::analysis::studies {
namespace {

MOETAP_INLINE void lru_of(uint8_t* places, size_t blocks, std::span<const int32_t> experts, uint32_t& num_held,
                          int32_t* distances) {
  for (size_t i = 0; i < experts.size(); ++i) {
    uint8_t& own = places[experts[i]];
    const uint8_t place = own;
    for (size_t block = 0; block < blocks; ++block) {
      uint8_t* const values = places + block * kPlaceBlock;
      for (size_t e = 0; e < kPlaceBlock; ++e) values[e] = static_cast<uint8_t>(values[e] + (values[e] < place));
    }
    own = 0;
    const bool is_held = place < num_held;
    distances[i] = is_held ? place + 1 : 0;
    num_held += is_held ? 0 : 1;
  }
}

// Each value of the list up to the one that is `sought` becomes the smaller one of itself and all before it that were
// carried: `carried` meets the first one, the larger one of the two goes on to meet the next. The last one that is
// carried takes the place of the sought one, or stands behind the list if that has none. Returns that place.

struct BaselineSettle {
  static MOETAP_INLINE size_t settle(uint32_t* list, size_t size, uint32_t sought, uint32_t carried) {
    for (size_t place = 0; place < size; ++place) {
      const uint32_t value = list[place];
      if (value == sought) {
        list[place] = carried;
        return place;
      }
      list[place] = std::min(value, carried);
      carried = std::max(value, carried);
    }
    list[size] = carried;
    return size;
  }
};

/// The expert accessed goes to the front whatever its next use. The one that was there moves back to where it meets one
/// whose next use is later still, which moves on in its place.
template <typename Settle>
MOETAP_INLINE void optimal_of(uint32_t* list, size_t& size, std::span<const uint32_t> entries, int32_t* distances) {
  size_t held = size;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto accessed = static_cast<uint32_t>(i + 1);
    const uint32_t first = list[0];
    list[0] = entries[i];
    if (first == accessed) {
      distances[i] = 1;
    } else if (held == 0) {
      distances[i] = 0;
      held = 1;
    } else {
      const size_t place = 1 + Settle::settle(list + 1, held - 1, accessed, first);
      const bool is_held = place < held;
      distances[i] = is_held ? static_cast<int32_t>(place) + 1 : 0;
      held += is_held ? 0 : 1;
    }
  }
  size = held;
}

void lru_baseline(uint8_t* places, size_t blocks, std::span<const int32_t> experts, uint32_t& num_held,
                  int32_t* distances) {
  lru_of(places, blocks, experts, num_held, distances);
}
void optimal_baseline(uint32_t* list, size_t& size, std::span<const uint32_t> entries, int32_t* distances) {
  optimal_of<BaselineSettle>(list, size, entries, distances);
}

constexpr CacheLoops kBaseline = {lru_baseline, optimal_baseline};

#if defined(__x86_64__)
#define MOETAP_AVX2 __attribute__((target("avx2")))
#define MOETAP_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))

struct Avx2Settle {
  /// Eight values at a time. What reaches each of them is the largest one before it: a running maximum of the eight, in
  /// three steps, and `carried`. The zeros behind the list carry nothing and stay.
  static MOETAP_AVX2 inline size_t settle(uint32_t* list, size_t size, uint32_t sought, uint32_t carried) {
    const __m256i up_by_one = _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6), highest = _mm256_set1_epi32(7);
    const __m256i wanted = _mm256_set1_epi32(static_cast<int>(sought));
    __m256i carry = _mm256_set1_epi32(static_cast<int>(carried));
    for (size_t first = 0; first < size; first += 8) {
      auto* const place = reinterpret_cast<__m256i*>(list + first);
      const __m256i values = _mm256_loadu_si256(place);
      // Within each half by one and by two, then the last of the lower half meets the upper one.
      __m256i most = _mm256_max_epu32(values, _mm256_slli_si256(values, 4));
      most = _mm256_max_epu32(most, _mm256_slli_si256(most, 8));
      const __m256i lower = _mm256_permute2x128_si256(most, most, 0x08);
      most = _mm256_max_epu32(most, _mm256_shuffle_epi32(lower, 0xff));
      const __m256i reached = _mm256_max_epu32(most, carry);
      const __m256i reaching = _mm256_blend_epi32(_mm256_permutevar8x32_epi32(reached, up_by_one), carry, 1);
      const __m256i kept = _mm256_min_epu32(values, reaching);
      const int found = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(values, wanted)));
      if (found != 0) {
        alignas(32) uint32_t settled[8], last[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(settled), kept);
        _mm256_store_si256(reinterpret_cast<__m256i*>(last), reaching);
        const auto lane = static_cast<size_t>(std::countr_zero(static_cast<unsigned>(found)));
        for (size_t i = 0; i < lane; ++i) list[first + i] = settled[i];
        list[first + lane] = last[lane];
        return first + lane;
      }
      _mm256_storeu_si256(place, kept);
      carry = _mm256_max_epu32(carry, _mm256_permutevar8x32_epi32(most, highest));
    }
    list[size] = static_cast<uint32_t>(_mm256_extract_epi32(carry, 0));
    return size;
  }
};

MOETAP_AVX2 void lru_avx2(uint8_t* places, size_t blocks, std::span<const int32_t> experts, uint32_t& num_held,
                          int32_t* distances) {
  lru_of(places, blocks, experts, num_held, distances);
}
MOETAP_AVX2 void optimal_avx2(uint32_t* list, size_t& size, std::span<const uint32_t> entries, int32_t* distances) {
  optimal_of<Avx2Settle>(list, size, entries, distances);
}

constexpr CacheLoops kAvx2 = {lru_avx2, optimal_avx2};

// GCC 12 takes the undefined operands that its own header passes for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

struct Avx512Settle {
  /// The same, sixteen values at a time.
  static MOETAP_AVX512 inline size_t settle(uint32_t* list, size_t size, uint32_t sought, uint32_t carried) {
    const __m512i zero = _mm512_setzero_si512(), wanted = _mm512_set1_epi32(static_cast<int>(sought));
    const __m512i highest = _mm512_set1_epi32(15);
    __m512i carry = _mm512_set1_epi32(static_cast<int>(carried));
    for (size_t first = 0; first < size; first += 16) {
      uint32_t* const place = list + first;
      const __m512i values = _mm512_loadu_si512(place);
      __m512i most = _mm512_max_epu32(values, _mm512_alignr_epi32(values, zero, 15));
      most = _mm512_max_epu32(most, _mm512_alignr_epi32(most, zero, 14));
      most = _mm512_max_epu32(most, _mm512_alignr_epi32(most, zero, 12));
      most = _mm512_max_epu32(most, _mm512_alignr_epi32(most, zero, 8));
      const __m512i reaching = _mm512_alignr_epi32(_mm512_max_epu32(most, carry), carry, 15);
      const __m512i kept = _mm512_min_epu32(values, reaching);
      const unsigned all = _mm512_cmpeq_epi32_mask(values, wanted);
      if (all != 0) {
        const unsigned found = all & (0U - all);  // the first one
        const auto up_to = static_cast<__mmask16>(found | (found - 1));
        const __m512i settled = _mm512_mask_mov_epi32(kept, static_cast<__mmask16>(found), reaching);
        // The whole vector is stored, so that the next access can load it from the store: lanes behind stay.
        _mm512_storeu_si512(place, _mm512_mask_mov_epi32(values, up_to, settled));
        return first + static_cast<size_t>(std::countr_zero(found));
      }
      _mm512_storeu_si512(place, kept);
      carry = _mm512_max_epu32(carry, _mm512_permutexvar_epi32(highest, most));
    }
    list[size] = static_cast<uint32_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(carry)));
    return size;
  }
};

MOETAP_AVX512 void lru_avx512(uint8_t* places, size_t blocks, std::span<const int32_t> experts, uint32_t& num_held,
                              int32_t* distances) {
  lru_of(places, blocks, experts, num_held, distances);
}
MOETAP_AVX512 void optimal_avx512(uint32_t* list, size_t& size, std::span<const uint32_t> entries, int32_t* distances) {
  optimal_of<Avx512Settle>(list, size, entries, distances);
}
#pragma GCC diagnostic pop

constexpr CacheLoops kAvx512 = {lru_avx512, optimal_avx512};

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace

std::vector<const CacheLoops*> all_cache_loops() {
  std::vector<const CacheLoops*> all{&kBaseline};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) all.push_back(&kAvx2);
  if (__builtin_cpu_supports("avx2") && has_avx512()) all.push_back(&kAvx512);
#endif
  return all;
}

const CacheLoops& cache_loops() {
  static const CacheLoops& loops = *all_cache_loops().back();
  return loops;
}

}  // namespace moetap::analysis::studies
