#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "analysis/studies/cache_loops.h"
#include "analysis/studies/vector_loops.h"

namespace moetap::analysis::studies {

// Note [Caches of all sizes at once]
// LRU and Belady's MIN are stack algorithms: the cache of C experts holds the first C of one list, so an access hits
// every cache of at least as many experts as the place at which the list holds the expert, its stack distance.
// Source: Mattson, Gecsei, Slutz, Traiger, "Evaluation techniques for storage hierarchies", IBM Systems Journal 9
// (1970).

inline constexpr int32_t kMiss = 0;  // a stack distance: the expert is in no cache

/// The list of LRU: by last access. The distance is one more than the number of experts accessed since.
class LruStack {
 public:
  explicit LruStack(int64_t num_experts);

  /// All caches are empty again.
  void clear() { num_held_ = 0; }
  /// Accesses experts, in order: their stack distances, 1 .. E, or kMiss.
  void access(std::span<const int32_t> experts, std::vector<int32_t>& distances);

 private:
  const VectorLoops& loops_ = vector_loops();
  const CacheLoops& cache_loops_ = cache_loops();
  // Where the list holds each expert, from 0; those at num_held_ and behind are in no cache. A move to the front makes
  // room before the expert's old place. One of the two, as bytes for up to 256 experts.
  std::vector<uint8_t> byte_places_;  // [E], then 255 up to a whole block
  std::vector<uint32_t> places_;      // [E]
  uint32_t num_held_ = 0;
};

/// The list of MIN with demand fetching: every expert accessed is brought in, and the one whose next use is farthest
/// leaves; of those that are not used again, the one with the highest id.
class OptimalStack {
 public:
  static constexpr uint32_t kNever = INT32_MAX - 1;  // times are below

  explicit OptimalStack(int64_t num_experts) : list_(static_cast<size_t>(num_experts) + 1 + 3 * kListPadding) {}

  void clear();
  /// Starts a new sequence of accesses with the caches as they are; `first_use` [E]: the time of the first access of
  /// each expert in it, or kNever. All of the sequence before must have been accessed.
  void restart(std::span<const uint32_t> first_use);
  /// The accesses of a sequence at the times 0, 1, ...: their stack distances, or kMiss. next_use: the time of the
  /// expert's next access after it, or kNever.
  void access(std::span<const int32_t> experts, std::span<const uint32_t> next_use, std::vector<int32_t>& distances);

 private:
  /// The second value begins a line of the cache, so that vectors of those behind the first lie in one line each.
  uint32_t* list() {
    constexpr size_t kLine = 64;
    const auto begin = reinterpret_cast<uintptr_t>(list_.data());
    return list_.data() + ((begin + kLine - 1) / kLine * kLine - begin) / sizeof(uint32_t) + kListPadding - 1;
  }
  static uint32_t entry(uint32_t next_use, int32_t expert);

  const CacheLoops& loops_ = cache_loops();
  // Time of the next use + 1, or, of an expert that is not used again in the sequence, its id behind all times: the
  // smaller one is kept. At the end of a sequence all are ids. Behind the `size_` experts of the list stand zeros.
  std::vector<uint32_t> list_;
  size_t size_ = 0;
  std::vector<uint32_t> entries_;
};

}  // namespace moetap::analysis::studies
