#include "plugin/capture/attention_tokens.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "hooks/points/token_sequence.h"

namespace moetap::plugin {
namespace {

/// Batch first; a layout of other dimensions stays as it is.
hooks::TokenLayout with_batch_first(hooks::TokenLayout layout) {
  const bool has_sequence_first = layout.dims.size() == 2 && layout.dims[1].role == hooks::TokenDimRole::kBatch;
  if (has_sequence_first) std::swap(layout.dims[0], layout.dims[1]);
  return layout;
}

/// bool [B, S]: which tokens of a group are no padding.
at::Tensor valid_of(const TokenGroup& group, int64_t batch, int64_t length) {
  return group.valid.defined() ? group.valid.reshape({batch, length})
                               : at::ones({batch, length}, at::TensorOptions().dtype(at::kBool).device(group.device));
}

std::shared_ptr<const TokenGroup> group_of(ForwardTokens& tokens, TextOfComponent text, int64_t batch, int64_t length,
                                           c10::Device device, const hooks::TokenLayout& layout, HostCopies* copies) {
  const std::vector<int64_t> sizes{batch, length};
  return tokens.group_of({text, sizes, device, copies, &layout}, copies);
}

/// The mask over the cache and the queries, where the text of the queries has one of `length` columns.
at::Tensor mask_over_cache(const ForwardTokens& tokens, TextOfComponent text, int64_t batch, int64_t length,
                           c10::Device device) {
  if (text == TextOfComponent::kNone) return {};
  const TextTokens read = text == TextOfComponent::kText ? tokens.text() : tokens.query_text();
  if (!read.mask.defined() || read.batch != batch || read.mask_columns != length) return {};
  return read.mask.to(device, /*non_blocking=*/true);
}

/// Throws c10::Error where the text has a mask over more than the queries and less than the keys: nothing tells which
/// keys the others are.
void check_mask_covers_cache(const ForwardTokens& tokens, TextOfComponent text, const AttentionSizes& sizes) {
  if (text == TextOfComponent::kNone) return;
  const TextTokens read = text == TextOfComponent::kText ? tokens.text() : tokens.query_text();
  TORCH_CHECK(!read.mask.defined() || read.batch != sizes.batch || read.mask_columns <= sizes.queries ||
                  read.mask_columns >= sizes.keys,
              "the token mask covers ", read.mask_columns, " of ", sizes.keys, " keys: nothing tells which these are");
}

/// The region of each token, uint8 in the shape of `ids`.
at::Tensor regions_of_ids(const AttentionRegions& regions, const at::Tensor& ids) {
  at::Tensor found = at::full(ids.sizes(), static_cast<int64_t>(regions.tokens.size()), ids.options().dtype(at::kByte));
  for (size_t region = 0; region < regions.tokens.size(); ++region) {
    for (const int64_t id : regions.tokens[region].ids) found.masked_fill_(ids.eq(id), static_cast<int64_t>(region));
  }
  return found;
}

/// uint8 [B, length]: the regions of a text's tokens; tokens that the forward does not show are of the last region.
/// Undefined: the regions are parts of the text.
at::Tensor regions_of(const RegionsOfForward& regions, const TokenGroup& group, int64_t batch, int64_t length) {
  if (regions.names.by == AttentionRegions::By::kParts) return {};
  if (regions.names.by == AttentionRegions::By::kTokens && group.token_ids.defined()) {
    return regions_of_ids(regions.names, group.token_ids.reshape({batch, length}));
  }
  const int64_t last = regions.names.num_regions() - 1;
  at::Tensor found = at::full({batch, length}, last, at::TensorOptions().dtype(at::kByte).device(group.device));
  const at::Tensor& argument = regions.argument;
  if (argument.defined() && argument.size(0) == batch) {
    // The last columns are the forward's own tokens, as those of a mask that covers a cache.
    const int64_t columns = std::min(argument.size(1), length);
    const at::Tensor own = argument.narrow(1, argument.size(1) - columns, columns);
    found.narrow(1, length - columns, columns).copy_(own.masked_fill(own.lt(0).logical_or(own.gt(last)), last));
  }
  return found;
}

/// The regions of the keys of a text, those of `cached` earlier tokens first.
at::Tensor regions_behind_cache(const RegionsOfForward& regions, const std::string& component, const at::Tensor& own,
                                int64_t cached) {
  if (!own.defined()) return own;
  at::Tensor all = own;
  if (cached > 0) {
    const auto known = regions.cached.behind_cache(component, regions.samples, cached, own);
    all = known ? *known
                : at::cat({at::full({own.size(0), cached}, regions.names.num_regions() - 1, own.options()), own}, 1);
  }
  regions.cached.keep(component, regions.samples, all);
  return all;
}

/// Whether the keys are the tokens of the queries' text, perhaps with a cache before them. Where the graph does not
/// tell what the keys are, sizes do: as many as the queries, or as the columns of the text's mask. Throws c10::Error
/// where these do not tell either: positions of keys that are not known would be wrong without a word.
bool keys_are_of_the_queries_text(const ForwardTokens& tokens, const hooks::HookPoint& point, TextOfComponent text,
                                  const AttentionSizes& sizes) {
  TORCH_CHECK(!point.keys_in_buffer || sizes.keys == sizes.queries,
              "its keys are a buffer of a fixed length (a static cache), of which a forward fills a part: ",
              sizes.queries, " queries, ", sizes.keys, " keys");
  if (point.self_attention) return sizes.keys >= sizes.queries;
  if (point.key_tokens.known) return false;
  const bool has_other_text = text == TextOfComponent::kDecoder;  // whose keys may be those of the encoder
  if (has_other_text) return false;
  if (sizes.keys == sizes.queries) return true;
  if (mask_over_cache(tokens, text, sizes.batch, sizes.keys, sizes.device).defined()) return true;
  TORCH_CHECK(text == TextOfComponent::kNone, "the graph does not tell which tokens the keys are: ", sizes.queries,
              " queries, ", sizes.keys, " keys");
  return false;
}

}  // namespace

hooks::TokenLayout AttentionHook::queries() const {
  return with_batch_first(point.tokens);
}

hooks::TokenLayout AttentionHook::keys() const {
  return with_batch_first(point.key_tokens);
}

at::Tensor rank_among_valid(const at::Tensor& valid) {
  return valid.to(at::kInt).cumsum(1, at::kInt).sub(1).masked_fill(valid.logical_not(), -1);
}

AttentionPlaces place_attention(ForwardTokens& tokens, const AttentionHook& hook, const AttentionSizes& sizes,
                                const RegionsOfForward& regions, HostCopies* copies) {
  const hooks::HookPoint& point = hook.point;
  const TextOfComponent text = tokens.text_of_hook(point.id, point.component);
  AttentionPlaces places;
  places.queries = group_of(tokens, text, sizes.batch, sizes.queries, sizes.device, hook.queries(), copies);
  const at::Tensor valid_queries = valid_of(*places.queries, sizes.batch, sizes.queries);
  analysis::AttentionTokens& found = places.tokens;
  found.num_regions = regions.names.num_regions();
  found.self = keys_are_of_the_queries_text(tokens, point, text, sizes);
  int64_t cached = sizes.keys - sizes.queries;
  std::shared_ptr<const TokenGroup> keys = places.queries;
  at::Tensor valid_keys = valid_queries;
  if (!found.self) {
    const bool is_decoder = text == TextOfComponent::kDecoder;
    const TextOfComponent key_text = is_decoder ? TextOfComponent::kText : TextOfComponent::kNone;
    keys = group_of(tokens, key_text, sizes.batch, sizes.keys, sizes.device, hook.keys(), copies);
    valid_keys = valid_of(*keys, sizes.batch, sizes.keys);
  } else if (cached > 0 && stands_in_front(point.tokens, point.key_tokens)) {
    // The others are means of several tokens, say: no tokens.
    const at::Tensor no_tokens = at::zeros({sizes.batch, cached}, valid_queries.options());
    valid_keys = at::cat({valid_queries, no_tokens}, 1);
    cached = 0;
  } else if (cached > 0) {
    check_mask_covers_cache(tokens, text, sizes);
    valid_keys = mask_over_cache(tokens, text, sizes.batch, sizes.keys, sizes.device);
    if (!valid_keys.defined()) {
      const at::Tensor of_cache = at::ones({sizes.batch, cached}, valid_queries.options());
      valid_keys = at::cat({of_cache, valid_queries}, 1);
    }
  }
  found.key_position = rank_among_valid(valid_keys);
  found.query_position =
      found.self ? found.key_position.narrow(1, cached, sizes.queries).contiguous() : rank_among_valid(valid_queries);
  found.query_region = regions_of(regions, *places.queries, sizes.batch, sizes.queries);
  const bool argument_has_cache = regions.argument.defined() && regions.argument.size(1) >= sizes.keys;
  found.key_region = found.self && !argument_has_cache
                         ? regions_behind_cache(regions, point.component, found.query_region, cached)
                         : regions_of(regions, *keys, sizes.batch, sizes.keys);
  if (found.key_region.defined() && found.key_region.size(1) < sizes.keys) {  // keys that are no tokens
    found.key_region = at::constant_pad_nd(found.key_region, {0, sizes.keys - found.key_region.size(1)}, 0);
  }
  return places;
}

}  // namespace moetap::plugin
