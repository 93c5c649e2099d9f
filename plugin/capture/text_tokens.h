#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "plugin/capture/text_arguments.h"

namespace moetap::plugin {

/// One text of a forward: B sequences of S tokens. Its tensors are on the device of the model's, and share no memory
/// with them.
struct TextTokens {
  int64_t batch = 0;            // B; 0: the forward has no such text
  int64_t length = 0;           // S
  int64_t mask_columns = 0;     // M of the mask, which may cover more than the ids; 0: there is none
  bool length_of_mask = false;  // no ids show S: it is the width of the mask, including a cache
  at::Tensor ids;               // int64 [B, S]; undefined: unknown, or not kept
  at::Tensor valid;             // bool [B, S], false: padding; undefined: all valid
  at::Tensor mask;              // bool [B, M], as `valid` over all columns of the mask; undefined: there is none
  std::string notice;           // for the user, on an argument that was not understood; empty: none
  std::string notice_detail;    // what it was
};

/// Reads token ids [B, S] (or [S]) and a mask. A mask that is longer than the ids (a key-value cache) counts with its
/// last S columns; one that is not [B, S] is left out, with a notice. Does not synchronise with a device.
/// A mask over a buffer of keys counts with the columns that `places`, int [S] or [B, S], names; where nothing names
/// them and they are more than S, the text has no mask, with a notice.
TextTokens read_text(const at::Tensor& ids, const at::Tensor& mask, bool keep_ids, const TextReading& reading = {},
                     const at::Tensor& places = {});

/// True for what counts, in the shape of the mask. kAuto: of bools and integers, what is not 0; of others, if one is
/// negative or all are 0, as additive. Additive: what is not very negative (-50: nothing is left of it after a
/// softmax).
at::Tensor read_mask(const at::Tensor& mask, hooks::MaskMeans means);

/// For a generation step that passes embeddings and no ids. If a router sees one token a sequence (`num_tokens` is B),
/// the text is only the last column of what the mask covers: narrows `text` to it.
void narrow_to_step(TextTokens& text, int64_t num_tokens);

}  // namespace moetap::plugin
