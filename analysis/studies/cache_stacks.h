#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "analysis/studies/vector_loops.h"

namespace moetap::analysis::studies {

// Note [Caches of all sizes at once]
// LRU and Belady's MIN are stack algorithms: the cache of C experts holds the first C of one list, so an access hits
// every cache of at least as many experts as the place at which the list holds the expert, its stack distance.
// Source: Mattson, Gecsei, Slutz, Traiger, "Evaluation techniques for storage hierarchies", IBM Systems Journal 9
// (1970).

inline constexpr int64_t kMiss = 0;  // a stack distance: the expert is in no cache

/// The list of LRU: by last access. The distance is one more than the number of experts accessed since.
class LruStack {
 public:
  explicit LruStack(int64_t num_experts);

  /// All caches are empty again.
  void clear() { num_held_ = 0; }
  /// The stack distance, 1 .. E, or kMiss.
  int64_t access(int32_t expert);

 private:
  const VectorLoops& loops_ = vector_loops();
  // Where the list holds each expert, from 0; those at num_held_ and behind are in no cache. A move to the front makes
  // room before the expert's old place. One of the two, as bytes for up to 256 experts.
  std::vector<uint8_t> byte_places_;  // [E]
  std::vector<uint32_t> places_;      // [E]
  uint32_t num_held_ = 0;
};

/// The list of MIN with demand fetching: every expert accessed is brought in, and the one whose next use is farthest
/// leaves; of those that are not used again, the one with the highest id.
class OptimalStack {
 public:
  static constexpr uint32_t kNever = INT32_MAX - 1;  // times are below

  void clear();
  /// Starts a new sequence of accesses with the caches as they are; `first_use` [E]: the time of the first access of
  /// each expert in it, or kNever.
  void restart(const std::vector<uint32_t>& first_use);
  /// The stack distance, or kMiss, of the access at `now`; `next_use` is the time of the expert's next access after it,
  /// or kNever. Every access of the sequence must be given, in order.
  int64_t access(int32_t expert, uint32_t now, uint32_t next_use);

 private:
  const VectorLoops& loops_ = vector_loops();
  // Next use + 1 in the high half, id in the low half: the smaller one is kept. Behind the `size_` experts of the list
  // stand zeros.
  std::vector<int64_t> stack_ = std::vector<int64_t>(kListPadding);
  size_t size_ = 0;
};

}  // namespace moetap::analysis::studies
