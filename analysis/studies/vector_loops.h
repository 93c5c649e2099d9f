#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace moetap::analysis::studies {

// Note [Loops over experts]
// Loops over the E values of a token, and over the K slots of all tokens, take most of the time of some studies. They
// are compiled for the oldest processor of the architecture and, on x86-64, for those with AVX2 and with AVX-512 too;
// the processor at hand decides when the program runs. They compare, count and add whole numbers, so all give the same
// bits.

struct VectorLoops {
  /// Adds 1 to those of values [size] that are smaller than x.
  void (*raise_smaller)(uint32_t* values, size_t size, uint32_t x);

  /// sums [width] = the sum of the rows of table [rows, width]. The values are whole numbers below 2^53, and so are
  /// sums.
  void (*add_rows)(const double* table, std::span<const int32_t> rows, size_t width, double* sums);
  /// How many of values [size] are larger than values[place], or equal and before it: its rank, from 0.
  int64_t (*rank_of)(const double* values, size_t size, size_t place);
  /// The same of table [rows, width], width a multiple of kLanes, of whole numbers whose sums are below 2^31.
  void (*add_whole_rows)(const uint32_t* table, std::span<const int32_t> rows, size_t width, uint32_t* sums);
  /// How many of values [size] are `least` or more; size is a multiple of kLanes.
  int64_t (*count_from)(const uint32_t* values, size_t size, uint32_t least);

  /// For each of the tokens whose rows of ids [tokens, row_width] these are: counts[w] += the number of bits of word w
  /// of the union of their rows of table [ids, words].
  void (*count_united_bits)(const uint64_t* table, size_t words, std::span<const int32_t> ids, size_t row_width,
                            int64_t* counts);

  /// counts [ids, width] of pairs of an id of a token's row of `from` [tokens, from_width] and one of its row of `to`
  /// [tokens, to_width], each id once a row: adds 1 for each pair of each token. width: a multiple of kByteLanes.
  /// tokens: at most kPairTokens; a counter holds 255. `flags`: room for kPairTokens * width bytes.
  void (*count_pairs)(std::span<const int32_t> from, size_t from_width, std::span<const int32_t> to, size_t to_width,
                      size_t width, uint8_t* flags, uint8_t* counts);
  /// sums [size] += counts, which become 0.
  void (*take_bytes)(uint8_t* counts, size_t size, int64_t* sums);

  /// All of ids are in [0, end).
  bool (*are_below)(const int32_t* ids, size_t size, int64_t end);
  /// All of values are in [0, infinity).
  bool (*are_finite_from_zero)(const double* values, size_t size);
  /// None of values is 0; NaN is none.
  bool (*have_no_zero)(const double* values, size_t size);
  /// One of the rows of ids [rows, width], which are 0 or more, has an id twice.
  bool (*have_repeats)(const int32_t* ids, size_t rows, size_t width);
  /// In each of the rows of values [rows, width], each value is larger than the next.
  bool (*descend)(const double* values, size_t rows, size_t width);
};

inline constexpr size_t kLanes = 16, kByteLanes = 64;
inline constexpr size_t kPairTokens = 64;

/// The loops for the processor at hand.
const VectorLoops& vector_loops();
/// Those of every kind that runs on it, to compare them.
std::vector<const VectorLoops*> all_vector_loops();

}  // namespace moetap::analysis::studies
