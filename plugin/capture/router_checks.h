#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "analysis/routers/router_check.h"
#include "plugin/records/forward_record.h"

namespace moetap::plugin {

// Note [A hook checks itself]
// The first calls of each hook are checked (analysis/routers/router_check.h). On the CPU the verdict is there at once:
// what does not fit is left out of that call and all later ones before they are measured. On a device the verdict comes
// with the one copy of the forward, and the writer thread applies it to that forward's record and to all later ones
// before they are written; the forward's thread leaves the column out as soon as it knows. Weights cannot be taken out
// of finished sums (a weight of 0 selects nothing), so a checked call is measured with weights that the device replaces
// if they do not fit. Calls go on being checked until kFirstCalls verdicts are back, so a call that is measured before
// the first verdict is known is always a checked one. A call that was not (`check_every`, a captured graph) and was
// measured with weights that turned out wrong is left out of its forward as a whole.

/// What the checks of a model's hooks have found. Thread-safe.
class RouterChecks {
 public:
  /// The first calls are checked until that many calls of that many tokens have been: steps of a generation have few.
  static constexpr int64_t kFirstCalls = 3, kFirstTokens = 64;
  static constexpr int64_t kMostFirstCalls = 8;  // no more than these

  /// `check_every`: after the first calls, every so many calls one is checked; 0: none.
  explicit RouterChecks(size_t num_hooks, int64_t check_every = 0);

  /// Counts a call; true if it is to be checked.
  bool begin_call(int64_t hook);

  /// The verdict of a checked call is back: what does not fit is withheld from now on. A hook whose ids do not fit
  /// stops.
  void came_back(int64_t hook, int64_t num_tokens, const analysis::RouterVerdict& verdict);

  /// True once the hook reports no more: it has failed, or its ids do not fit.
  bool stopped(int64_t hook) const { return state(hook).stopped.load(std::memory_order_relaxed); }
  /// True for the caller that stops it first.
  bool stop(int64_t hook) { return !state(hook).stopped.exchange(true); }

  /// The columns of the hook that are withheld; all of the hook if its ids are.
  analysis::RouterColumns withheld(int64_t hook) const { return state(hook).withheld.load(std::memory_order_relaxed); }

  /// Why; one line. Empty: nothing is withheld.
  std::string reason(int64_t hook) const;

  /// What no record that was taken has told so far.
  std::vector<UnverifiedColumn> untold() const;
  /// A record with these was taken.
  void told(const std::vector<UnverifiedColumn>& columns);

 private:
  struct State {
    std::atomic<int64_t> calls = 0, verdicts = 0, tokens = 0;  // the last: of the calls whose verdicts are back
    std::atomic<bool> stopped = false;
    std::atomic<analysis::RouterColumns> withheld = 0;
  };
  State& state(int64_t hook) { return states_.at(static_cast<size_t>(hook)); }
  const State& state(int64_t hook) const { return states_.at(static_cast<size_t>(hook)); }

  struct Finding {
    std::string reason;
    bool stops_hook = false;
    bool told = false;
  };

  const int64_t check_every_;
  std::vector<State> states_;                                               // by hook
  mutable std::mutex mutex_;                                                // guards what follows
  std::map<std::pair<int64_t, analysis::RouterColumn>, Finding> findings_;  // by hook and column
};

}  // namespace moetap::plugin
