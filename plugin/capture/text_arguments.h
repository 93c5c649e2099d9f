#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hooks/points/hook_point.h"

namespace moetap::plugin {

/// Which text the routers of a component see.
enum class TextOfComponent { kNone, kText, kDecoder };
TextOfComponent text_of_component(const std::string& component);

/// How the tensors of a text are read.
struct TextReading {
  bool ids_sequence_first = false;  // ids are [S, B]
  bool mask_sequence_first = false;
  bool mask_in_buffer = false;  // its columns are the places of a buffer of keys: see hooks::MaskDims::kBuffer
  hooks::MaskMeans mask_means = hooks::MaskMeans::kAuto;  // kAuto: its numbers tell

  bool operator==(const TextReading&) const = default;
};

/// What of a method's arguments tells of tokens. Places are indices in the tensor list that `moetap::begin` is given;
/// empty: the method has none.
struct TextArguments {
  std::optional<size_t> ids, mask;                  // of the encoder, or of the only text
  std::optional<size_t> decoder_ids, decoder_mask;  // of the decoder
  // The columns of the tokens in a mask over a buffer.
  std::optional<size_t> mask_places, decoder_mask_places;
  std::vector<size_t> packings;  // that say which tokens are left where others are taken out
  TextReading reading, decoder_reading;
  std::vector<hooks::TokenDim> batches;         // the samples, as the layouts of the method's routers have them
  std::vector<TextOfComponent> texts_of_hooks;  // by the hook's id; empty: the component tells
};

/// The keys of a configuration that say it by hand.
struct TextSettings {
  std::string token_ids, token_mask;  // names of arguments; empty: to be found
  hooks::MaskMeans mask_means = hooks::MaskMeans::kAuto;
};

/// Finds the text arguments of `method`: what the layouts of its routers say (embeddings that are looked up by ids,
/// masks along the tokens) comes first, then usual names. A mask that a layout shows to be another thing, such as
/// [S, S], is never taken unless the settings name it.
TextArguments find_text_arguments(const std::string& method, const std::vector<std::string>& names,
                                  const std::vector<hooks::HookPoint>& hooks, const TextSettings& settings);

}  // namespace moetap::plugin
