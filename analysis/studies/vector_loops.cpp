#include "analysis/studies/vector_loops.h"

#include <algorithm>
#include <bit>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Each loop is a template that is inlined where it is called: once in a function for any processor, once in one for
// AVX2. `settle` is written for each: no compiler finds the running maximum of a vector.
#define MOETAP_INLINE __attribute__((always_inline)) inline

namespace moetap::analysis::studies {
namespace {

template <typename Value>
MOETAP_INLINE void raise_smaller_of(Value* values, size_t size, Value x) {
  for (size_t i = 0; i < size; ++i) values[i] = static_cast<Value>(values[i] + (values[i] < x));
}

MOETAP_INLINE void add_rows_of(const double* table, std::span<const int32_t> rows, size_t width, double* sums) {
  for (size_t i = 0; i < width; ++i) sums[i] = 0;
  for (const int32_t row : rows) {
    const double* const values = table + static_cast<size_t>(row) * width;
    for (size_t i = 0; i < width; ++i) sums[i] += values[i];
  }
}

MOETAP_INLINE int64_t rank_in(const double* values, size_t size, size_t place) {
  const double x = values[place];
  int64_t rank = 0;
  for (size_t i = 0; i < place; ++i) rank += values[i] >= x;
  for (size_t i = place + 1; i < size; ++i) rank += values[i] > x;
  return rank;
}

MOETAP_INLINE void count_united_bits_of(const uint64_t* table, std::span<const int32_t> rows, size_t width,
                                        uint64_t* united, int64_t* counts) {
  for (size_t w = 0; w < width; ++w) united[w] = 0;
  for (const int32_t row : rows) {
    const uint64_t* const bits = table + static_cast<size_t>(row) * width;
    for (size_t w = 0; w < width; ++w) united[w] |= bits[w];
  }
  for (size_t w = 0; w < width; ++w) counts[w] += std::popcount(united[w]);
}

void raise_smaller_bytes_baseline(uint8_t* values, size_t size, uint8_t x) {
  raise_smaller_of(values, size, x);
}
void raise_smaller_baseline(uint32_t* values, size_t size, uint32_t x) {
  raise_smaller_of(values, size, x);
}
void add_rows_baseline(const double* table, std::span<const int32_t> rows, size_t width, double* sums) {
  add_rows_of(table, rows, width, sums);
}
int64_t rank_baseline(const double* values, size_t size, size_t place) {
  return rank_in(values, size, place);
}
void count_united_bits_baseline(const uint64_t* table, std::span<const int32_t> rows, size_t width, uint64_t* united,
                                int64_t* counts) {
  count_united_bits_of(table, rows, width, united, counts);
}

size_t settle_baseline(int64_t* list, size_t size, int64_t sought, int64_t carried) {
  for (size_t place = 0; place < size; ++place) {
    const int64_t value = list[place];
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

constexpr VectorLoops kBaseline = {
    raise_smaller_bytes_baseline, raise_smaller_baseline, add_rows_baseline, rank_baseline,
    count_united_bits_baseline,   settle_baseline};

#if defined(__x86_64__)
#define MOETAP_AVX2 __attribute__((target("avx2,popcnt")))
MOETAP_AVX2 void raise_smaller_bytes_avx2(uint8_t* values, size_t size, uint8_t x) {
  raise_smaller_of(values, size, x);
}
MOETAP_AVX2 void raise_smaller_avx2(uint32_t* values, size_t size, uint32_t x) {
  raise_smaller_of(values, size, x);
}
MOETAP_AVX2 void add_rows_avx2(const double* table, std::span<const int32_t> rows, size_t width, double* sums) {
  add_rows_of(table, rows, width, sums);
}
MOETAP_AVX2 int64_t rank_avx2(const double* values, size_t size, size_t place) {
  return rank_in(values, size, place);
}
MOETAP_AVX2 void count_united_bits_avx2(const uint64_t* table, std::span<const int32_t> rows, size_t width,
                                        uint64_t* united, int64_t* counts) {
  count_united_bits_of(table, rows, width, united, counts);
}

MOETAP_AVX2 inline __m256i larger(__m256i a, __m256i b) {
  return _mm256_blendv_epi8(b, a, _mm256_cmpgt_epi64(a, b));
}
/// Four values at a time. What reaches each of them is the largest one before it: a running maximum of the four, in two
/// steps, and `carried`. The zeros behind the list carry nothing and stay.
MOETAP_AVX2 size_t settle_avx2(int64_t* list, size_t size, int64_t sought, int64_t carried) {
  constexpr int kUpByOne = 0b10010000, kLowest = 0b00000011;
  const __m256i zero = _mm256_setzero_si256(), wanted = _mm256_set1_epi64x(sought);
  __m256i carry = _mm256_set1_epi64x(carried);
  for (size_t first = 0; first < size; first += 4) {
    auto* const place = reinterpret_cast<__m256i*>(list + first);
    const __m256i values = _mm256_loadu_si256(place);
    __m256i most = larger(values, _mm256_blend_epi32(_mm256_permute4x64_epi64(values, kUpByOne), zero, kLowest));
    most = larger(most, _mm256_permute2x128_si256(most, most, 0x08));
    const __m256i reached = larger(most, carry);
    const __m256i reaching = _mm256_blend_epi32(_mm256_permute4x64_epi64(reached, kUpByOne), carry, kLowest);
    const __m256i kept = _mm256_blendv_epi8(values, reaching, _mm256_cmpgt_epi64(values, reaching));
    const int found = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(values, wanted)));
    if (found != 0) {
      alignas(32) int64_t settled[4], last[4];
      _mm256_store_si256(reinterpret_cast<__m256i*>(settled), kept);
      _mm256_store_si256(reinterpret_cast<__m256i*>(last), reaching);
      const auto lane = static_cast<size_t>(std::countr_zero(static_cast<unsigned>(found)));
      for (size_t i = 0; i < lane; ++i) list[first + i] = settled[i];
      list[first + lane] = last[lane];
      return first + lane;
    }
    _mm256_storeu_si256(place, kept);
    carry = larger(carry, _mm256_permute4x64_epi64(most, 0b11111111));
  }
  list[size] = _mm256_extract_epi64(carry, 0);
  return size;
}

constexpr VectorLoops kAvx2 = {raise_smaller_bytes_avx2, raise_smaller_avx2, add_rows_avx2, rank_avx2,
                               count_united_bits_avx2,   settle_avx2};

// GCC 12 takes the undefined operands that its own header passes for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
/// The same, eight values at a time.
__attribute__((target("avx512f"))) size_t settle_avx512(int64_t* list, size_t size, int64_t sought, int64_t carried) {
  const __m512i zero = _mm512_setzero_si512(), wanted = _mm512_set1_epi64(sought), highest = _mm512_set1_epi64(7);
  __m512i carry = _mm512_set1_epi64(carried);
  for (size_t first = 0; first < size; first += 8) {
    int64_t* const place = list + first;
    const __m512i values = _mm512_loadu_si512(place);
    __m512i most = _mm512_max_epi64(values, _mm512_alignr_epi64(values, zero, 7));
    most = _mm512_max_epi64(most, _mm512_alignr_epi64(most, zero, 6));
    most = _mm512_max_epi64(most, _mm512_alignr_epi64(most, zero, 4));
    const __m512i reaching = _mm512_alignr_epi64(_mm512_max_epi64(most, carry), carry, 7);
    const __m512i kept = _mm512_min_epi64(values, reaching);
    const unsigned all = _mm512_cmpeq_epi64_mask(values, wanted);
    const auto found = static_cast<__mmask8>(all & (0U - all));  // the first one
    if (found != 0) {
      const auto up_to = static_cast<__mmask8>(found | (found - 1));
      _mm512_mask_storeu_epi64(place, up_to, _mm512_mask_mov_epi64(kept, found, reaching));
      return first + static_cast<size_t>(std::countr_zero(static_cast<unsigned>(found)));
    }
    _mm512_storeu_si512(place, kept);
    carry = _mm512_max_epi64(carry, _mm512_permutexvar_epi64(highest, most));
  }
  list[size] = _mm_cvtsi128_si64(_mm512_castsi512_si128(carry));
  return size;
}

#pragma GCC diagnostic pop

constexpr VectorLoops kAvx512 = {raise_smaller_bytes_avx2, raise_smaller_avx2, add_rows_avx2, rank_avx2,
                                 count_united_bits_avx2,   settle_avx512};
#endif

const VectorLoops& best_loops() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) {
    return __builtin_cpu_supports("avx512f") ? kAvx512 : kAvx2;
  }
#endif
  return kBaseline;
}

}  // namespace

const VectorLoops& vector_loops() {
  static const VectorLoops& loops = best_loops();
  return loops;
}

std::vector<const VectorLoops*> all_vector_loops() {
  std::vector<const VectorLoops*> all{&kBaseline};
#if defined(__x86_64__)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
  if (has_avx2) all.push_back(&kAvx2);
  if (has_avx2 && __builtin_cpu_supports("avx512f")) all.push_back(&kAvx512);
#endif
  return all;
}

}  // namespace moetap::analysis::studies
