#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "analysis/routers/router_call.h"

namespace moetap::plugin {

/// The indices of a method's text arguments in the tensor list that `moetap::begin` is given; empty: the method has
/// none.
struct TextArguments {
  std::optional<size_t> ids, mask;                  // of the encoder, or of the only text
  std::optional<size_t> decoder_ids, decoder_mask;  // of the decoder
};

/// Finds the text arguments by their names. A name that the user configured (`token_ids`, `token_mask`) takes the place
/// of the usual ones for `ids` and `mask`.
TextArguments find_text_arguments(const std::vector<std::string>& names, const std::string& token_ids,
                                  const std::string& token_mask);

/// One text of a forward: B sequences of S tokens. Its tensors are on the device of the model's, and share no memory
/// with them.
struct TextTokens {
  int64_t batch = 0;            // B; 0: the forward has no such text
  int64_t length = 0;           // S
  int64_t mask_columns = 0;     // of the mask, which may cover a key-value cache too; 0: there is none
  bool length_of_mask = false;  // no ids show S: it is the width of the mask, including a cache
  at::Tensor ids;               // int64 [B, S]; undefined: unknown, or not kept
  at::Tensor valid;             // bool [B, S], false: padding; undefined: all valid
  std::string notice;           // for the user, on an argument that was not understood; empty: none
  std::string notice_detail;    // what it was
};

/// Reads token ids [B, S] (or [S]) and a mask. A mask is boolean, or numbers of which 0 means padding, or additive (a
/// negative number somewhere: then 0 means valid and the rest padding). One that is longer than the ids (a key-value
/// cache) counts with its last S columns; one that is not [B, S] is left out, with a notice. Does not synchronise with
/// a device.
TextTokens read_text(const at::Tensor& ids, const at::Tensor& mask, bool keep_ids);

/// For a generation step that passes embeddings and no ids. If a router sees one token a sequence (`num_tokens` is B),
/// the text is only the last column of what the mask covers: narrows `text` to it.
void narrow_to_step(TextTokens& text, int64_t num_tokens);

/// Which text the routers of a component see.
enum class TextOfComponent { kNone, kText, kDecoder };
TextOfComponent text_of_component(const std::string& component);

enum class TokenOrder { kBatchFirst, kSequenceFirst };

/// Which samples of the forward the tokens of a router call belong to.
struct Attribution {
  bool attributed = true;                      // false: the tokens cannot be told apart by sample; num_rows is 1
  bool text = false;                           // the tokens are the text's [B, S]
  bool assumes_one_sample = false;             // nothing says how many samples there are
  TokenOrder order = TokenOrder::kBatchFirst;  // of the text's tokens in the call
  int64_t num_rows = 1;

  bool operator==(const Attribution&) const = default;
};

/// `token_sizes`: see CanonicalRouter. `text`: of the router's component, nullptr for none. `batch`: number of samples
/// of the forward, empty if not known yet.
Attribution attribute_tokens(const std::vector<int64_t>& token_sizes, const TextTokens* text,
                             std::optional<int64_t> batch);

/// The number of samples of a forward whose text does not show it, from a router's `token_sizes`: the first of two or
/// more sizes; empty with fewer.
std::optional<int64_t> batch_of_router(const std::vector<int64_t>& token_sizes);

/// [num_tokens]: the entries of the text's [B, S] tensor, in the order of the tokens of the call.
at::Tensor in_token_order(const at::Tensor& text_tensor, TokenOrder order);

/// The rows that `analysis::observe` needs. `valid`: bool [num_tokens] on the call's device, undefined: all valid.
analysis::TokenRows rows_for(const Attribution& attribution, const at::Tensor& valid);

/// int64 [num_tokens] on the CPU: the sample's place in the forward; -1 where `attributed` is false.
at::Tensor row_column(const Attribution& attribution, int64_t num_tokens);

/// int32 [num_tokens] on the CPU: the column in the text's [B, S]; else the place in the call.
at::Tensor position_column(const Attribution& attribution, int64_t num_tokens);

}  // namespace moetap::plugin
