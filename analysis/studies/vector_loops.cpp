#include "analysis/studies/vector_loops.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Each loop is a template that is inlined where it is called: once in a function for any processor, once in one for
// AVX2, once in one for AVX-512.
#define MOETAP_INLINE __attribute__((always_inline)) inline

namespace moetap::analysis::studies {
namespace {

// Vectors of kLanes values: the compiler makes of them what the processor has.
using Words = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t))));
using Bytes = uint8_t __attribute__((vector_size(kByteLanes)));
using Bits = uint64_t __attribute__((vector_size(8 * sizeof(uint64_t))));

template <typename Vector, typename Value>
MOETAP_INLINE void load(Vector& vector, const Value* values) {
  std::memcpy(&vector, values, sizeof(Vector));
}

MOETAP_INLINE void raise_smaller_of(uint32_t* values, size_t size, uint32_t x) {
  for (size_t i = 0; i < size; ++i) values[i] += values[i] < x;
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

MOETAP_INLINE void add_whole_rows_of(const uint32_t* table, std::span<const int32_t> rows, size_t width,
                                     uint32_t* sums) {
  for (size_t i = 0; i < width; i += kLanes) {
    Words sum{};
    for (const int32_t row : rows) {
      Words values;
      load(values, table + static_cast<size_t>(row) * width + i);
      sum += values;
    }
    std::memcpy(sums + i, &sum, sizeof(sum));
  }
}

MOETAP_INLINE int64_t count_from_of(const uint32_t* values, size_t size, uint32_t least) {
  Words counts{};
  for (size_t i = 0; i < size; i += kLanes) {
    Words of;
    load(of, values + i);
    counts -= reinterpret_cast<Words>(of >= least);  // a lane that holds is −1
  }
  uint32_t total = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) total += counts[lane];
  return total;
}

/// Eight words of every token at a time, so that their counts stay in registers.
MOETAP_INLINE void count_united_bits_of(const uint64_t* table, size_t words, std::span<const int32_t> ids,
                                        size_t row_width, int64_t* counts) {
  constexpr size_t kBlock = 8;
  if (row_width == 0) return;
  size_t first = 0;
  for (; first + kBlock <= words; first += kBlock) {
    int64_t sums[kBlock] = {};
    for (size_t begin = 0; begin < ids.size(); begin += row_width) {
      Bits united{};
      for (size_t k = begin; k < begin + row_width; ++k) {
        Bits bits;
        load(bits, table + static_cast<size_t>(ids[k]) * words + first);
        united |= bits;
      }
      for (size_t w = 0; w < kBlock; ++w) sums[w] += std::popcount(united[w]);
    }
    for (size_t w = 0; w < kBlock; ++w) counts[first + w] += sums[w];
  }
  for (; first < words; ++first) {
    for (size_t begin = 0; begin < ids.size(); begin += row_width) {
      uint64_t united = 0;
      for (size_t k = begin; k < begin + row_width; ++k) united |= table[static_cast<size_t>(ids[k]) * words + first];
      counts[first] += std::popcount(united);
    }
  }
}

/// The row of `to` as a flag an id, which is added to the row of counts of each id of `from`.
MOETAP_INLINE void count_pairs_of(std::span<const int32_t> from, size_t from_width, std::span<const int32_t> to,
                                  size_t to_width, size_t width, uint8_t* flags, uint8_t* counts) {
  const size_t tokens = from_width == 0 || to_width == 0 ? 0 : from.size() / from_width;
  std::memset(flags, 0, tokens * width);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t k = t * to_width; k < (t + 1) * to_width; ++k) flags[t * width + static_cast<size_t>(to[k])] = 1;
  }
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t first = 0; first < width; first += kByteLanes) {
      Bytes flag;
      load(flag, flags + t * width + first);
      for (size_t k = t * from_width; k < (t + 1) * from_width; ++k) {
        uint8_t* const row = counts + static_cast<size_t>(from[k]) * width + first;
        Bytes count;
        load(count, row);
        count += flag;
        std::memcpy(row, &count, sizeof(count));
      }
    }
  }
}

MOETAP_INLINE void take_bytes_of(uint8_t* counts, size_t size, int64_t* sums) {
  for (size_t i = 0; i < size; ++i) sums[i] += counts[i];
  std::memset(counts, 0, size);
}

MOETAP_INLINE bool are_below_of(const int32_t* ids, size_t size, int64_t end) {
  const auto limit = static_cast<uint32_t>(std::clamp<int64_t>(end, 0, INT32_MAX));
  uint32_t others = 0;
  for (size_t i = 0; i < size; ++i) others |= static_cast<uint32_t>(ids[i]) >= limit;
  return others == 0;
}

MOETAP_INLINE bool are_finite_from_zero_of(const double* values, size_t size) {
  uint64_t others = 0;
  for (size_t i = 0; i < size; ++i) others |= !(values[i] >= 0) | !(values[i] <= std::numeric_limits<double>::max());
  return others == 0;
}

MOETAP_INLINE bool have_no_zero_of(const double* values, size_t size) {
  uint64_t zeros = 0;
  for (size_t i = 0; i < size; ++i) zeros |= values[i] == 0;
  return zeros == 0;
}

MOETAP_INLINE bool have_repeats_of(const int32_t* ids, size_t rows, size_t width) {
  bool repeats = false;
  for (size_t row = 0; row < rows && !repeats; ++row, ids += width) {
    for (size_t a = 0; a < width; ++a) {
      for (size_t b = a + 1; b < width; ++b) repeats |= ids[a] == ids[b];
    }
  }
  return repeats;
}

template <size_t kWidth>
MOETAP_INLINE bool rows_descend(const double* values, size_t rows, size_t width) {
  bool descend = true;
  const size_t own = kWidth == 0 ? width : kWidth;
  for (size_t row = 0; row < rows && descend; ++row, values += own) {
    for (size_t k = 0; k + 1 < own; ++k) descend &= values[k] > values[k + 1];
  }
  return descend;
}
MOETAP_INLINE bool descend_of(const double* values, size_t rows, size_t width) {
  return width == 8 ? rows_descend<8>(values, rows, width) : rows_descend<0>(values, rows, width);
}

#define MOETAP_LOOPS_OF(set, attributes)                                                                               \
  attributes void raise_smaller_##set(uint32_t* values, size_t size, uint32_t x) {                                     \
    raise_smaller_of(values, size, x);                                                                                 \
  }                                                                                                                    \
  attributes void add_rows_##set(const double* table, std::span<const int32_t> rows, size_t width, double* sums) {     \
    add_rows_of(table, rows, width, sums);                                                                             \
  }                                                                                                                    \
  attributes int64_t rank_##set(const double* values, size_t size, size_t place) {                                     \
    return rank_in(values, size, place);                                                                               \
  }                                                                                                                    \
  attributes void add_whole_rows_##set(const uint32_t* table, std::span<const int32_t> rows, size_t width,             \
                                       uint32_t* sums) {                                                               \
    add_whole_rows_of(table, rows, width, sums);                                                                       \
  }                                                                                                                    \
  attributes int64_t count_from_##set(const uint32_t* values, size_t size, uint32_t least) {                           \
    return count_from_of(values, size, least);                                                                         \
  }                                                                                                                    \
  attributes void count_united_bits_##set(const uint64_t* table, size_t words, std::span<const int32_t> ids,           \
                                          size_t row_width, int64_t* counts) {                                         \
    count_united_bits_of(table, words, ids, row_width, counts);                                                        \
  }                                                                                                                    \
  attributes bool are_below_##set(const int32_t* ids, size_t size, int64_t end) {                                      \
    return are_below_of(ids, size, end);                                                                               \
  }                                                                                                                    \
  attributes void count_pairs_##set(std::span<const int32_t> from, size_t from_width, std::span<const int32_t> to,     \
                                    size_t to_width, size_t width, uint8_t* flags, uint8_t* counts) {                  \
    count_pairs_of(from, from_width, to, to_width, width, flags, counts);                                              \
  }                                                                                                                    \
  attributes void take_bytes_##set(uint8_t* counts, size_t size, int64_t* sums) {                                      \
    take_bytes_of(counts, size, sums);                                                                                 \
  }                                                                                                                    \
  attributes bool are_finite_from_zero_##set(const double* values, size_t size) {                                      \
    return are_finite_from_zero_of(values, size);                                                                      \
  }                                                                                                                    \
  attributes bool have_no_zero_##set(const double* values, size_t size) {                                              \
    return have_no_zero_of(values, size);                                                                              \
  }                                                                                                                    \
  attributes bool have_repeats_##set(const int32_t* ids, size_t rows, size_t width) {                                  \
    return have_repeats_of(ids, rows, width);                                                                          \
  }                                                                                                                    \
  attributes bool descend_##set(const double* values, size_t rows, size_t width) {                                     \
    return descend_of(values, rows, width);                                                                            \
  }                                                                                                                    \
  constexpr VectorLoops k_##set = {                                                                                    \
      raise_smaller_##set,     add_rows_##set,     rank_##set,       add_whole_rows_##set, count_from_##set,           \
      count_united_bits_##set, count_pairs_##set,  take_bytes_##set, are_below_##set,      are_finite_from_zero_##set, \
      have_no_zero_##set,      have_repeats_##set, descend_##set};

MOETAP_LOOPS_OF(baseline, )

#if defined(__x86_64__)
#define MOETAP_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512cd,avx512vpopcntdq,popcnt,prefer-vector-width=512")))
MOETAP_LOOPS_OF(avx2, __attribute__((target("avx2,popcnt"))))
MOETAP_LOOPS_OF(avx512, MOETAP_AVX512)

// GCC 12 takes the undefined operands that its own header passes for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
/// A row of up to 8, or 16, ids is one vector whose values the processor compares with each other.
MOETAP_AVX512 bool have_repeats_by_vector(const int32_t* ids, size_t rows, size_t width) {
  if (width > kLanes) return have_repeats_of(ids, rows, width);
  const auto lanes = static_cast<__mmask16>((1U << width) - 1);
  // Lanes behind a row differ from all of its ids and from each other.
  const __m512i others = _mm512_setr_epi32(-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12, -13, -14, -15, -16);
  __m512i conflicts = _mm512_setzero_si512();
  for (size_t row = 0; row < rows; ++row, ids += width) {
    if (width == 8) {
      const __m256i of = _mm256_conflict_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(ids)));
      conflicts = _mm512_or_si512(conflicts, _mm512_zextsi256_si512(of));
    } else {
      conflicts = _mm512_or_si512(conflicts, _mm512_conflict_epi32(_mm512_mask_loadu_epi32(others, lanes, ids)));
    }
  }
  return _mm512_test_epi32_mask(conflicts, conflicts) != 0;
}

#pragma GCC diagnostic pop

VectorLoops avx512_loops() {
  VectorLoops loops = k_avx512;
  loops.have_repeats = have_repeats_by_vector;
  return loops;
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512vpopcntdq");
}
#endif

}  // namespace

std::vector<const VectorLoops*> all_vector_loops() {
  std::vector<const VectorLoops*> all{&k_baseline};
#if defined(__x86_64__)
  static const VectorLoops avx512 = avx512_loops();
  if (has_avx2()) all.push_back(&k_avx2);
  if (has_avx512()) all.push_back(&avx512);
#endif
  return all;
}

const VectorLoops& vector_loops() {
  static const VectorLoops& loops = *all_vector_loops().back();
  return loops;
}

}  // namespace moetap::analysis::studies
