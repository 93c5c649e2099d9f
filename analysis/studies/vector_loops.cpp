#include "analysis/studies/vector_loops.h"

#include <bit>

// Each loop is a template that is inlined where it is called: once in a function for any processor, once in one for
// AVX2.
#define MOETAP_INLINE __attribute__((always_inline)) inline

namespace moetap::analysis::studies {
namespace {

MOETAP_INLINE int64_t count_larger_of(const uint32_t* values, size_t size, uint32_t x) {
  uint32_t count = 0;
  for (size_t i = 0; i < size; ++i) count += values[i] > x;
  return count;
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

int64_t count_larger_baseline(const uint32_t* values, size_t size, uint32_t x) {
  return count_larger_of(values, size, x);
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

constexpr VectorLoops kBaseline = {count_larger_baseline, add_rows_baseline, rank_baseline, count_united_bits_baseline};

#if defined(__x86_64__)
#define MOETAP_AVX2 __attribute__((target("avx2,popcnt")))
MOETAP_AVX2 int64_t count_larger_avx2(const uint32_t* values, size_t size, uint32_t x) {
  return count_larger_of(values, size, x);
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

constexpr VectorLoops kAvx2 = {count_larger_avx2, add_rows_avx2, rank_avx2, count_united_bits_avx2};
#endif

const VectorLoops& best_loops() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) return kAvx2;
#endif
  return kBaseline;
}

}  // namespace

const VectorLoops& vector_loops() {
  static const VectorLoops& loops = best_loops();
  return loops;
}

const VectorLoops& baseline_vector_loops() {
  return kBaseline;
}

}  // namespace moetap::analysis::studies
