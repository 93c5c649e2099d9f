#include "plugin/journal/held_rows.h"

#include <c10/util/Exception.h>

#include <array>
#include <stdexcept>

#include "plugin/journal/held_values.h"

namespace moetap::plugin {
namespace {

using analysis::HostPlane;
using analysis::HostRouterCall;
using analysis::RouterSums;

/// The plane from token `first` on, where a token is followed by the one `step` tokens further.
HostPlane some_rows(HostPlane plane, int64_t first, int64_t step) {
  if (!plane.defined()) return plane;
  const auto bytes = static_cast<int64_t>(c10::elementSize(plane.dtype));
  plane.data = static_cast<const char*>(plane.data) + first * plane.row_stride * bytes;
  plane.row_stride *= step;
  return plane;
}

RouterSums no_sums(const HostRouterCall& call, bool with_pairs) {
  RouterSums sums = analysis::empty_router_sums(call.num_experts, call.top_k, 1);
  if (with_pairs || !sums.has_pairs) return sums;
  sums.has_pairs = false;
  sums.words = sums.words.narrow(0, 0, sums.layout().pairs_begin());
  return sums;
}

}  // namespace

HeldRows rows_of(const HeldRouter& held, int64_t row, size_t layer, bool per_token) {
  const HostRouterCall& call = held.values;
  const int64_t tokens_of_row = call.num_tokens / call.num_rows;
  const bool interleaved = call.order == analysis::RowOrder::kInterleaved;
  TORCH_INTERNAL_ASSERT(tokens_of_row <= kMaxHeldTokens && call.row == nullptr);
  std::array<int64_t, kMaxHeldTokens> tokens{};
  HeldRows rows{layer, held.before, per_token, call, nullptr};
  rows.values.num_tokens = 0;
  for (int64_t i = 0; i < tokens_of_row; ++i) {
    const int64_t token = interleaved ? row + i * call.num_rows : row * tokens_of_row + i;
    if (call.valid != nullptr && !call.valid[token]) continue;
    tokens[static_cast<size_t>(rows.values.num_tokens++)] = token;
  }
  const int64_t step = rows.values.num_tokens > 1 ? tokens[1] - tokens[0] : 1;
  for (HostPlane* plane : {&rows.values.logits, &rows.values.probabilities, &rows.values.scores, &rows.values.selected,
                           &rows.values.weights}) {
    *plane = some_rows(*plane, tokens[0], step);
  }
  rows.values.num_rows = 1;
  rows.values.order = analysis::RowOrder::kRowByRow;
  rows.values.valid = nullptr;
  return rows;
}

LoggedRouter measured(const HeldRows& rows) {
  const HostRouterCall& call = rows.values;
  LoggedRouter router;
  router.layer = rows.layer;
  router.sums = no_sums(call, /*with_pairs=*/false);
  analysis::HostTokenOutputs outputs;
  if (rows.per_token) {
    router.selected.resize(static_cast<size_t>(call.num_tokens * call.top_k));
    outputs.selected = router.selected.data();
    if (call.has_margins()) router.margins.resize(static_cast<size_t>(call.num_tokens));
    outputs.margins = router.margins.empty() ? nullptr : router.margins.data();
  }
  analysis::observe_host(call, host_sums(router.sums), outputs);
  return router;
}

void add_to(RouterSums& total, const HeldRows& rows, int32_t* first_slots) {
  const HostRouterCall& call = rows.values;
  analysis::HostTokenOutputs outputs;
  outputs.first_slot = first_slots;
  if (!total.defined()) total = no_sums(call, /*with_pairs=*/true);
  const bool fits = total.num_experts == call.num_experts && total.top_k == call.top_k && total.num_rows == 1 &&
                    total.has_pairs == (total.layout().pair_words() > 0);
  if (fits) {
    analysis::observe_host(call, host_sums(total), outputs);
  } else {
    RouterSums sums = no_sums(call, /*with_pairs=*/true);
    analysis::observe_host(call, host_sums(sums), outputs);
    add_sums(total, sums);
  }
}

void encode(ByteWriter& bytes, const std::vector<HeldRows>& all) {
  bytes.count(all.size());
  for (size_t place = 0; place < all.size(); ++place) {
    const HeldRows& rows = all[place];
    bytes.count(rows.layer);
    bytes.count(rows.before < 0 ? 0 : place - static_cast<size_t>(rows.before));
    bytes.count(rows.per_token);
    encode_values(bytes, rows.values);
  }
}

std::vector<HeldRows> decode_held_rows(ByteReader& bytes) {
  std::vector<HeldRows> all;
  for (uint64_t left = bytes.count(); left > 0; --left) {
    HeldRows rows;
    rows.layer = bytes.count();
    const uint64_t back = bytes.count();
    if (back > all.size()) throw std::runtime_error("a frame of the journal names a router before that is not there");
    rows.before = back == 0 ? -1 : static_cast<int64_t>(all.size() - back);
    rows.per_token = bytes.count() != 0;
    OwnedCall decoded = decode_values(bytes);
    rows.values = decoded.call;
    rows.memory = std::move(decoded.memory);
    if (rows.before >= 0 && all[static_cast<size_t>(rows.before)].values.num_tokens != rows.values.num_tokens) {
      throw std::runtime_error("a frame of the journal holds a router before that saw other tokens");
    }
    all.push_back(std::move(rows));
  }
  return all;
}

}  // namespace moetap::plugin
