#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace moetap::analysis::studies {

// Note [Loops over experts]
// Loops over the E values of a token take most of the time of some studies. They are compiled for the oldest processor
// of the architecture and, on x86-64, for those with AVX2 and with AVX-512 too; the processor at hand decides when the
// program runs. They compare, count and add whole numbers, so all give the same bits.

struct VectorLoops {
  /// Adds 1 to those of values [size] that are smaller than x.
  void (*raise_smaller_bytes)(uint8_t* values, size_t size, uint8_t x);
  void (*raise_smaller)(uint32_t* values, size_t size, uint32_t x);
  /// sums [width] = the sum of the rows of table [rows, width]. The values are whole numbers below 2^53, and so are
  /// sums.
  void (*add_rows)(const double* table, std::span<const int32_t> rows, size_t width, double* sums);
  /// How many of values [size] are larger than values[place], or equal and before it: its rank, from 0.
  int64_t (*rank_of)(const double* values, size_t size, size_t place);
  /// united [width] = the union of the rows of table [rows, width]; then counts[w] += number of bits of united[w].
  void (*count_united_bits)(const uint64_t* table, std::span<const int32_t> rows, size_t width, uint64_t* united,
                            int64_t* counts);
  /// Each value of the list up to the one that is `sought` becomes the smaller one of itself and all before it that
  /// were carried: `carried` meets the first one, the larger one of the two goes on to meet the next. The last one that
  /// is carried takes the place of the sought one, or stands behind the list if that has none. Returns that place.
  /// Values are positive and, like `sought`, below 2^63; behind the list [size] are kListPadding zeros.
  size_t (*settle)(int64_t* list, size_t size, int64_t sought, int64_t carried);
};

inline constexpr size_t kListPadding = 8;

/// The loops for the processor at hand.
const VectorLoops& vector_loops();
/// Those of every kind that runs on it, to compare them.
std::vector<const VectorLoops*> all_vector_loops();

}  // namespace moetap::analysis::studies
