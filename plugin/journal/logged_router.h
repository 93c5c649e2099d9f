#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "analysis/routers/router_sums.h"
#include "plugin/formats/byte_stream.h"
#include "plugin/records/forward_record.h"

namespace moetap::plugin {

/// What the journal keeps of a router for one log entry and forward.
struct LoggedRouter {
  size_t layer = 0;               // place in the run's LayerTable
  analysis::RouterSums sums;      // without pairs; one row, with log_entries: forward one row for each sample
  std::vector<int32_t> selected;  // [N * K] token-major; -1 unused; empty: not logged
  // [N], w[0] - w[1]; with log_entries: forward those of the first sample only, if the tokens can be told apart by
  // sample; empty: not logged
  std::vector<float> margins;
};

/// What a forward adds to the run's sums of a router.
struct RouterTotal {
  size_t layer = 0;           // place in the run's LayerTable
  analysis::RouterSums sums;  // one row, with pairs
};

/// What a router gives to each part of its forward.
struct SplitRouter {
  std::vector<LoggedRouter> parts;   // one for each part of the forward; empty: `shared` holds the router
  std::vector<LoggedRouter> shared;  // at most one: for all parts together, as its tokens cannot be told apart by part
};

enum class PartsAre { kSamples, kForwards };  // a part of a forward is a sample, or the whole forward is one part

/// Splits what a router recorded among the parts of the forward. `layer`: its place in the run's LayerTable.
/// `num_parts` >= 1. `per_token`: keep `selected` and `margins`.
SplitRouter split_router(const RouterRecord& router, size_t layer, size_t num_parts, PartsAre parts_are,
                         bool per_token);

/// Adds what the same layer reported in another call: sums are added, lists of tokens follow each other; margins are
/// dropped if only one of the two has them.
void add_call(LoggedRouter& into, const LoggedRouter& from);
void add_call(RouterTotal& into, const RouterTotal& from);

/// Adds a router to a list that holds each layer once: in a loop a router reports several times in a forward, and its
/// calls are added up.
template <typename Router>
void add_router(std::vector<Router>& routers, Router router);

/// Adds `from` to `into`, row by row. The numbers of slots may differ: the larger one is kept. Where the numbers of
/// rows differ, the result is one row, the sum over all rows.
void add_sums(analysis::RouterSums& into, const analysis::RouterSums& from);

void encode(ByteWriter& bytes, const std::vector<LoggedRouter>& routers);
std::vector<LoggedRouter> decode_logged_routers(ByteReader& bytes);

void encode(ByteWriter& bytes, const std::vector<RouterTotal>& routers);
std::vector<RouterTotal> decode_router_totals(ByteReader& bytes);

// Note [Sums stand once in a frame]
// A router's total over a forward is the sum over the forward's parts: adding is exact (Note [Exact sums]), so it gives
// the same bits in any order. Only the table of pairs is in no part. So where the parts hold every router, the summary
// in a frame keeps only the pairs, and `complete_totals` adds up the rest when the frame is read.

/// Encodes only the layers and the pairs.
void encode_pairs(ByteWriter& bytes, const std::vector<RouterTotal>& routers);
/// Totals whose sums hold nothing but pairs, for `complete_totals`.
std::vector<RouterTotal> decode_pairs(ByteReader& bytes);

/// Completes each total, which holds only pairs, with the sums over `parts`. Throws std::runtime_error if a layer is in
/// no part, or if its pairs do not fit the number of experts or slots there.
void complete_totals(std::vector<RouterTotal>& totals, const std::vector<const std::vector<LoggedRouter>*>& parts);

}  // namespace moetap::plugin
