#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis/routers/router_call.h"
#include "plugin/capture/text_tokens.h"
#include "plugin/capture/token_places.h"

namespace moetap::plugin {

/// What the position of a token is.
enum class PositionOf {
  kSequence,  // its column in its sample's sequence
  kCall,      // its place in the call: the tokens of a tower
  kNone,      // -1: it is not known, or each sample has one token, that of all its positions
};

/// Columns of the sequence that a tensor [B, length] has entries for; those before and behind have none.
struct TextColumns {
  int64_t first = 0, length = 0;

  bool operator==(const TextColumns&) const = default;
};

/// Which samples of the forward the tokens of a router call belong to: token t to sample t / row_step % num_rows, at
/// position t / position_step % num_positions. Where tokens were taken out before the router, t is not the number of a
/// row but the place, among all `num_places` tokens, of one that is left: the n-th row has the n-th of these places.
struct Attribution {
  bool attributed = true;  // false: the tokens cannot be told apart by sample; num_rows is 1
  bool text = false;       // the text's ids and mask apply to the tokens
  int64_t num_rows = 1, row_step = 1;
  PositionOf position = PositionOf::kCall;
  int64_t num_positions = 1, position_step = 1;
  TextColumns ids = {}, mask = {};                 // where `text`
  bool whole_mask = false;                         // all columns of the mask apply, not only those of the ids
  std::optional<hooks::TokenPacking> packed = {};  // which tokens are left; empty: all
  int64_t num_places = 0;                          // where `packed`

  bool operator==(const Attribution&) const = default;
};

/// Of tokens of which nothing is known.
Attribution not_attributed(PositionOf position);

/// By places that are known. `text`: of the router, nullptr for none; its ids are the argument `ids`. `batch`: number
/// of samples of the forward, empty if not known.
Attribution attribute_tokens(const TokenPlaces& places, const TextTokens* text, const std::optional<size_t>& ids,
                             std::optional<int64_t> batch, int64_t num_tokens);

/// By sizes alone, where the layout is not known; what fits in two ways is not attributed. `token_sizes`: see
/// CanonicalRouter.
Attribution attribute_tokens(at::IntArrayRef token_sizes, const TextTokens* text, std::optional<int64_t> batch);

/// The number of samples of a forward whose arguments do not show it, from a router's `token_sizes`: the first of two
/// or more sizes; empty with fewer.
std::optional<int64_t> batch_of_router(at::IntArrayRef token_sizes);

/// [num_tokens]: the entries of the text's tensor [B, columns.length], in the order of the tokens of the call; `fill`
/// where it has none.
at::Tensor in_token_order(const at::Tensor& text_tensor, const TextColumns& columns, const Attribution& attribution,
                          int64_t num_tokens, int64_t fill);

/// int64 [num_tokens] on the argument's device: the places of the tokens that are left, in their order. `argument`:
/// that of `attribution.packed`, [B, S], or [S, B] where `transposed`. Undefined: it does not fit.
at::Tensor packed_places(const Attribution& attribution, const at::Tensor& argument, bool transposed,
                         int64_t num_tokens);

/// The rows that `analysis::observe` needs. `valid`: bool [num_tokens] on `device`, the call's; undefined: all valid.
/// `places`: where tokens were taken out, those of `packed_places`.
analysis::TokenRows rows_for(const Attribution& attribution, const at::Tensor& valid, int64_t num_tokens,
                             c10::Device device, const at::Tensor& places = {});

/// int64 [num_tokens] on the CPU: the sample's place in the forward; -1 where `attributed` is false.
at::Tensor row_column(const Attribution& attribution, int64_t num_tokens, const at::Tensor& places = {});

/// int32 [num_tokens] on the CPU.
at::Tensor position_column(const Attribution& attribution, int64_t num_tokens, const at::Tensor& places = {});

}  // namespace moetap::plugin
