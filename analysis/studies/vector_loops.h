#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moetap::analysis::studies {

// Note [Loops over experts]
// Loops over the E values of a token take most of the time of some studies. They are compiled for the oldest processor
// of the architecture and, on x86-64, for those with AVX2 too; the processor at hand decides when the program runs.
// They compare, count and add whole numbers, so both give the same bits.

struct VectorLoops {
  /// How many of values [size] are larger than x.
  int64_t (*count_larger)(const uint32_t* values, size_t size, uint32_t x);
  /// sums [width] = the sum of the rows of table [rows, width]. The values are whole numbers below 2^53, and so are
  /// sums.
  void (*add_rows)(const double* table, std::span<const int32_t> rows, size_t width, double* sums);
  /// How many of values [size] are larger than values[place], or equal and before it: its rank, from 0.
  int64_t (*rank_of)(const double* values, size_t size, size_t place);
  /// united [width] = the union of the rows of table [rows, width]; then counts[w] += number of bits of united[w].
  void (*count_united_bits)(const uint64_t* table, std::span<const int32_t> rows, size_t width, uint64_t* united,
                            int64_t* counts);
};

/// The loops for the processor at hand.
const VectorLoops& vector_loops();
/// Those for any processor.
const VectorLoops& baseline_vector_loops();

}  // namespace moetap::analysis::studies
