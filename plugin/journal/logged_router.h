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
  analysis::RouterSums sums;      // without pairs; one row, or with log_entries: forward a row a sample
  std::vector<int32_t> selected;  // [N * K] token-major; -1 unused; empty: not logged
  // [N], w[0] - w[1]; with log_entries: forward of the first sample only; empty: not logged
  std::vector<float> margins;
};

/// What a forward adds to the run's sums of a router.
struct RouterTotal {
  size_t layer = 0;           // place in the run's LayerTable
  analysis::RouterSums sums;  // one row, with pairs
};

/// What a router gives to each part of its forward.
struct SplitRouter {
  std::vector<LoggedRouter> parts;   // one a part of the forward; empty: `shared` is for all parts together
  std::vector<LoggedRouter> shared;  // none, or one whose tokens cannot be told apart by part
};

enum class PartsAre { kSamples, kForwards };  // a part of a forward is a sample, or the whole forward is one part

/// Splits a router's report. `layer`: its place. `num_parts` >= 1. `per_token`: keep `selected` and `margins`.
SplitRouter split_router(const RouterRecord& router, size_t layer, size_t num_parts, PartsAre parts_are,
                         bool per_token);

/// Adds a router to a list that holds each layer once: in a loop a router reports several times a forward.
void add_router(std::vector<LoggedRouter>& routers, LoggedRouter router);
void add_router(std::vector<RouterTotal>& routers, RouterTotal router);

/// Adds `from` to `into`, row by row. The number of slots or of rows may differ between forwards; of different numbers
/// of rows the sum over the rows is kept.
void add_sums(analysis::RouterSums& into, const analysis::RouterSums& from);

void encode(ByteWriter& bytes, const std::vector<LoggedRouter>& routers);
std::vector<LoggedRouter> decode_logged_routers(ByteReader& bytes);

void encode(ByteWriter& bytes, const std::vector<RouterTotal>& routers);
std::vector<RouterTotal> decode_router_totals(ByteReader& bytes);

// Note [Sums stand once in a frame]
// The rows of a forward's totals are the sum over its parts: adding is exact (Note [Exact sums]), so it gives the same
// bits in any order. Only the table of pairs is no part's. So where the parts hold every router, a frame keeps the
// pairs alone, and `complete_totals` adds up the rest when the frame is read.

/// Only the layers and the pairs.
void encode_pairs(ByteWriter& bytes, const std::vector<RouterTotal>& routers);
/// Totals whose sums hold nothing but pairs, for `complete_totals`.
std::vector<RouterTotal> decode_pairs(ByteReader& bytes);

/// Puts the sum over `parts` before the pairs of each total. Throws std::runtime_error if a layer is in no part.
void complete_totals(std::vector<RouterTotal>& totals, const std::vector<const std::vector<LoggedRouter>*>& parts);

}  // namespace moetap::plugin
