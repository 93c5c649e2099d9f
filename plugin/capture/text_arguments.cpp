#include "plugin/capture/text_arguments.h"

#include <algorithm>
#include <string_view>

#include "hooks/points/token_sequence.h"

namespace moetap::plugin {
namespace {

using Names = std::vector<std::string>;
using Place = std::optional<size_t>;
using hooks::MaskDims;
using hooks::TokenDimRole;

// In the order of preference.
const std::vector<std::string_view> kIdsNames = {"input_ids", "token_ids", "input_tokens", "tokens", "ids"};
const std::vector<std::string_view> kMaskNames = {"attention_mask",   "token_mask",   "input_mask",
                                                  "attn_mask",        "mask",         "src_key_padding_mask",
                                                  "key_padding_mask", "padding_mask", "pad_mask"};
const std::vector<std::string_view> kDecoderIdsNames = {"decoder_input_ids", "decoder_token_ids"};
const std::vector<std::string_view> kDecoderMaskNames = {"decoder_attention_mask", "decoder_token_mask"};
// Embeddings are looked up by these, too.
const std::vector<std::string_view> kNoIds = {"position", "type", "segment"};

bool contains(const std::string& name, std::string_view part) {
  return name.find(part) != std::string::npos;
}

Place place_of(const Names& names, std::string_view name) {
  const auto found = std::find(names.begin(), names.end(), name);
  return found == names.end() ? Place() : Place(static_cast<size_t>(found - names.begin()));
}

/// The first of the usual names that `accepts` lets through.
template <typename Accepts>
Place find_name(const Names& names, const std::vector<std::string_view>& usual, const Accepts& accepts) {
  for (const std::string_view name : usual) {
    const Place found = place_of(names, name);
    if (found && accepts(*found)) return found;
  }
  return std::nullopt;
}

Place find_name(const Names& names, const std::vector<std::string_view>& usual) {
  return find_name(names, usual, [](size_t) { return true; });
}

const hooks::TokenDim* dim_of(const hooks::TokenLayout& layout, TokenDimRole role) {
  const auto found = std::find_if(layout.dims.begin(), layout.dims.end(),
                                  [&](const hooks::TokenDim& dim) { return dim.role == role; });
  return found == layout.dims.end() ? nullptr : &*found;
}

bool has_sequence(const hooks::TokenLayout& layout) {
  return layout.known && dim_of(layout, TokenDimRole::kSequence) != nullptr;
}

/// Which of the arguments that embeddings are looked up by is the text.
Place choose_ids(const hooks::TokenLayout& layout, const Names& names, const std::vector<std::string_view>& usual) {
  const auto is_looked_up = [&](size_t place) {
    return std::find(layout.ids.begin(), layout.ids.end(), static_cast<int64_t>(place)) != layout.ids.end();
  };
  if (const Place named = find_name(names, usual, is_looked_up)) return named;
  for (const int64_t place : layout.ids) {
    if (place < 0 || static_cast<size_t>(place) >= names.size()) continue;
    const std::string& name = names[static_cast<size_t>(place)];
    const bool is_no_text =
        std::any_of(kNoIds.begin(), kNoIds.end(), [&](std::string_view part) { return contains(name, part); });
    if (!is_no_text) return static_cast<size_t>(place);
  }
  return std::nullopt;
}

/// What the layouts of a text's routers say of its masks.
class MaskChoice {
 public:
  /// `in_front`: other keys stand behind those of the tokens, and the layout is that of all keys.
  void add(const hooks::TokenLayout& layout, bool in_front) {
    for (hooks::TokenMask mask : layout.masks) {
      if (in_front && mask.dims == MaskDims::kTokens) mask.dims = MaskDims::kBuffer;
      const auto known = std::find_if(masks_.begin(), masks_.end(),
                                      [&](const hooks::TokenMask& other) { return other.argument == mask.argument; });
      if (known == masks_.end()) {
        masks_.push_back(mask);
      } else if (mask.dims == MaskDims::kBuffer || known->dims == MaskDims::kBuffer) {
        const bool both = mask.dims == known->dims;
        known->places = both && mask.places != known->places ? -1 : std::max(mask.places, known->places);
        known->dims = MaskDims::kBuffer;
      } else if (known->dims == MaskDims::kUnknown ||
                 (known->dims == MaskDims::kOther && mask.dims != MaskDims::kUnknown)) {
        known->dims = mask.dims;
      }
    }
  }

  Place choose(const Names& names, const std::vector<std::string_view>& usual) const {
    const auto runs_along_tokens = [&](size_t place) {
      const MaskDims dims = dims_of(place);
      return dims == MaskDims::kTokens || dims == MaskDims::kTransposed || dims == MaskDims::kBuffer;
    };
    if (const Place named = find_name(names, usual, runs_along_tokens)) return named;
    for (const hooks::TokenMask& mask : masks_) {
      const auto place = static_cast<size_t>(mask.argument);
      if (place < names.size() && runs_along_tokens(place) && mask.means != hooks::MaskMeans::kAuto) return place;
    }
    return find_name(names, usual, [&](size_t place) { return dims_of(place) != MaskDims::kOther; });
  }

  bool is_in_buffer(const Place& place) const { return place && dims_of(*place) == MaskDims::kBuffer; }

  /// The argument that holds the columns of the tokens in a mask over a buffer.
  Place places_in(const Place& place) const {
    for (const hooks::TokenMask& mask : masks_) {
      if (place && mask.argument == static_cast<int64_t>(*place) && mask.places >= 0) {
        return static_cast<size_t>(mask.places);
      }
    }
    return std::nullopt;
  }

  bool is_sequence_first(const Place& place) const { return place && dims_of(*place) == MaskDims::kTransposed; }

  hooks::MaskMeans means(const Place& place, const Names& names, hooks::MaskMeans setting) const {
    if (!place || setting != hooks::MaskMeans::kAuto) return setting;
    for (const hooks::TokenMask& mask : masks_) {
      if (mask.argument == static_cast<int64_t>(*place) && mask.means != hooks::MaskMeans::kAuto) return mask.means;
    }
    const std::string& name = names[*place];
    return contains(name, "padding_mask") || contains(name, "pad_mask") ? hooks::MaskMeans::kPadding
                                                                        : hooks::MaskMeans::kAuto;
  }

 private:
  MaskDims dims_of(size_t place) const {
    for (const hooks::TokenMask& mask : masks_) {
      if (mask.argument == static_cast<int64_t>(place)) return mask.dims;
    }
    return MaskDims::kUnknown;
  }

  std::vector<hooks::TokenMask> masks_;
};

bool has_sequence_first(const hooks::TokenLayout& layout, const Place& ids) {
  const hooks::TokenDim* batch = dim_of(layout, TokenDimRole::kBatch);
  return ids && batch != nullptr &&
         std::any_of(batch->arguments.begin(), batch->arguments.end(), [&](const hooks::ArgumentDim& dim) {
           return dim.argument == static_cast<int64_t>(*ids) && dim.dim == 1;
         });
}

}  // namespace

TextOfComponent text_of_component(const std::string& component) {
  if (component == "language_model" || component == "encoder") return TextOfComponent::kText;
  return component == "decoder" ? TextOfComponent::kDecoder : TextOfComponent::kNone;
}

TextArguments find_text_arguments(const std::string& method, const Names& names,
                                  const std::vector<hooks::HookPoint>& hooks, const TextSettings& settings) {
  TextArguments found;
  found.ids = settings.token_ids.empty() ? find_name(names, kIdsNames) : place_of(names, settings.token_ids);
  found.decoder_ids = find_name(names, kDecoderIdsNames);
  bool text_is_known = !settings.token_ids.empty(), decoder_is_known = false;
  MaskChoice masks, decoder_masks;
  for (const hooks::HookPoint& hook : hooks) {
    TextOfComponent text = text_of_component(hook.component);
    if (hook.method == method && hook.tokens.known) {
      const hooks::TokenDim* batch = dim_of(hook.tokens, TokenDimRole::kBatch);
      if (hook.tokens.packed) {
        const auto packing = static_cast<size_t>(hook.tokens.packed->argument);
        const bool is_new = std::find(found.packings.begin(), found.packings.end(), packing) == found.packings.end();
        if (is_new) found.packings.push_back(packing);
      }
      if (batch != nullptr && std::find(found.batches.begin(), found.batches.end(), *batch) == found.batches.end()) {
        found.batches.push_back(*batch);
      }
      if (!has_sequence(hook.tokens)) text = TextOfComponent::kNone;
      const Place ids =
          choose_ids(hook.tokens, names, text == TextOfComponent::kDecoder ? kDecoderIdsNames : kIdsNames);
      if (text != TextOfComponent::kNone && ids && settings.token_ids.empty()) {
        // The first text is the model's own; a second one is the decoder's, whatever their modules are called.
        if (text == TextOfComponent::kText && text_is_known && found.ids != ids) text = TextOfComponent::kDecoder;
        Place& place = text == TextOfComponent::kText ? found.ids : found.decoder_ids;
        bool& is_known = text == TextOfComponent::kText ? text_is_known : decoder_is_known;
        if (is_known && place != ids) {
          text = TextOfComponent::kNone;
        } else {
          place = ids;
          is_known = true;
        }
      }
      // A mask runs along the keys, which may be more than the queries.
      const bool has_keys = hook.kind == hooks::HookKind::kAttention && hook.self_attention && hook.key_tokens.known;
      const hooks::TokenLayout& masked = has_keys ? hook.key_tokens : hook.tokens;
      const bool in_front = has_keys && hooks::stands_in_front(hook.tokens, hook.key_tokens);
      if (text == TextOfComponent::kText) {
        masks.add(masked, in_front);
        found.reading.ids_sequence_first = has_sequence_first(hook.tokens, found.ids);
      } else if (text == TextOfComponent::kDecoder) {
        decoder_masks.add(masked, in_front);
        found.decoder_reading.ids_sequence_first = has_sequence_first(hook.tokens, found.decoder_ids);
      }
    }
    found.texts_of_hooks.push_back(text);
  }
  found.mask = settings.token_mask.empty() ? masks.choose(names, kMaskNames) : place_of(names, settings.token_mask);
  found.decoder_mask = decoder_masks.choose(names, kDecoderMaskNames);
  found.reading.mask_sequence_first = masks.is_sequence_first(found.mask);
  found.reading.mask_in_buffer = masks.is_in_buffer(found.mask);
  found.mask_places = masks.places_in(found.mask);
  found.reading.mask_means = masks.means(found.mask, names, settings.mask_means);
  found.decoder_reading.mask_sequence_first = decoder_masks.is_sequence_first(found.decoder_mask);
  found.decoder_reading.mask_in_buffer = decoder_masks.is_in_buffer(found.decoder_mask);
  found.decoder_mask_places = decoder_masks.places_in(found.decoder_mask);
  found.decoder_reading.mask_means = decoder_masks.means(found.decoder_mask, names, settings.mask_means);
  return found;
}

}  // namespace moetap::plugin
