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
  explicit LruStack(int64_t num_experts) : last_access_(static_cast<size_t>(num_experts)) {}

  /// All caches are empty again.
  void clear();
  /// The stack distance, 1 .. E, or kMiss.
  int64_t access(int32_t expert);

 private:
  void renumber();

  const VectorLoops& loops_ = vector_loops();
  std::vector<uint32_t> last_access_;  // [E] 0: never
  uint32_t now_ = 0;
};

/// The list of MIN with demand fetching: every expert accessed is brought in, and the one whose next use is farthest
/// leaves; of those that are not used again, the one with the highest id.
class OptimalStack {
 public:
  static constexpr uint32_t kNever = UINT32_MAX;

  void clear() { stack_.clear(); }
  /// Starts a new sequence of accesses with the caches as they are; `first_use` [E]: the time of the first access of
  /// each expert in it, or kNever.
  void restart(const std::vector<uint32_t>& first_use);
  /// The stack distance, or kMiss, of the access at `now`; `next_use` is the time of the expert's next access after it,
  /// or kNever. Every access of the sequence must be given, in order.
  int64_t access(int32_t expert, uint32_t now, uint32_t next_use);

 private:
  std::vector<uint64_t> stack_;  // next use in the high half, id in the low half: the smaller one is kept
};

}  // namespace moetap::analysis::studies
