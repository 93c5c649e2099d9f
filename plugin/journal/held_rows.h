#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "analysis/routers/host_call.h"
#include "plugin/formats/byte_stream.h"
#include "plugin/journal/logged_router.h"
#include "plugin/records/held_router.h"

namespace moetap::plugin {

/// The tokens of a held router call that belong to one part of a forward, without padding. Whoever needs their sums
/// measures them: see Note [Held calls].
struct HeldRows {
  size_t layer = 0;                    // place in the run's LayerTable
  int64_t before = -1;                 // place of the router before in the part's list; -1: none
  bool per_token = false;              // the log lists the tokens
  analysis::HostRouterCall values;     // one row; ids are int32
  std::shared_ptr<const void> memory;  // owns what `values` points to; null: the record does
};

/// What a held call gives to the part of row `row`.
HeldRows rows_of(const HeldRouter& held, int64_t row, size_t layer, bool per_token);

/// The sums of the rows, without pairs, and with `per_token` their ids and margins.
LoggedRouter measured(const HeldRows& rows);

/// Adds the rows to the total of their router, one row with pairs, which may be undefined. `first_slots`: gets the
/// expert of each token's first slot; -1: the token has none. Null: not asked for.
void add_to(analysis::RouterSums& total, const HeldRows& rows, int32_t* first_slots = nullptr);

void encode(ByteWriter& bytes, const std::vector<HeldRows>& all);
/// Throws std::runtime_error for bytes that `encode` did not write.
std::vector<HeldRows> decode_held_rows(ByteReader& bytes);

}  // namespace moetap::plugin
