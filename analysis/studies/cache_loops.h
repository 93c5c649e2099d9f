#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace moetap::analysis::studies {

/// The lists of cache_stacks.h, moved by a whole sequence of accesses: Note [Loops over experts].
struct CacheLoops {
  /// places [blocks, kPlaceBlock]: where LRU's list holds each expert, those behind the last expert 255. Gives the
  /// stack distances, 0: a miss. `num_held`: how many experts the list has.
  void (*lru)(uint8_t* places, size_t blocks, std::span<const int32_t> experts, uint32_t& num_held, int32_t* distances);
  /// list [size] of MIN, then zeros, kListPadding of them at its largest. entries: of each access, what the list holds
  /// of its expert afterwards; the list holds i + 1 for the expert of access i, if it has it. Distances as above.
  void (*optimal)(uint32_t* list, size_t& size, std::span<const uint32_t> entries, int32_t* distances);
};

inline constexpr size_t kPlaceBlock = 64;
inline constexpr size_t kListPadding = 16;

/// The loops for the processor at hand.
const CacheLoops& cache_loops();
/// Those of every kind that runs on it, to compare them.
std::vector<const CacheLoops*> all_cache_loops();

}  // namespace moetap::analysis::studies
