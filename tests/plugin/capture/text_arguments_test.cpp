#include "plugin/capture/text_arguments.h"

#include <gtest/gtest.h>

namespace moetap::plugin {
namespace {

using hooks::MaskDims;
using hooks::MaskMeans;
using hooks::TokenDimRole;

hooks::HookPoint hook(const std::string& component, hooks::TokenLayout tokens = {}) {
  hooks::HookPoint hook;
  hook.method = "forward";
  hook.component = component;
  hook.tokens = std::move(tokens);
  return hook;
}

/// Rows that run along the dimensions of an argument [B, S], or [S, B].
hooks::TokenLayout along(int64_t argument, std::vector<int64_t> ids, std::vector<hooks::TokenMask> masks,
                         bool sequence_first = false) {
  const int64_t batch = sequence_first ? 1 : 0;
  hooks::TokenLayout layout;
  layout.known = true;
  layout.dims = {{TokenDimRole::kBatch, {{argument, batch, 2}}}, {TokenDimRole::kSequence, {{argument, 1 - batch, 2}}}};
  layout.ids = std::move(ids);
  layout.masks = std::move(masks);
  return layout;
}

TextArguments find(const std::vector<std::string>& names, const std::vector<hooks::HookPoint>& hooks,
                   const TextSettings& settings = {}) {
  return find_text_arguments("forward", names, hooks, settings);
}

TEST(TextArguments, AreFoundByNameWhereNoLayoutIsKnown) {
  const auto found = find({"pixel_values", "attention_mask", "input_ids", "decoder_input_ids"}, {});
  EXPECT_EQ(found.ids, 2u);
  EXPECT_EQ(found.mask, 1u);
  EXPECT_EQ(found.decoder_ids, 3u);
  EXPECT_EQ(found.decoder_mask, std::nullopt);
  const auto named = find({"input_ids", "codes", "keep"}, {}, {"codes", "keep"});
  EXPECT_EQ(named.ids, 1u);
  EXPECT_EQ(named.mask, 2u);
  EXPECT_EQ(find({"input_ids"}, {}, {"codes", ""}).ids, std::nullopt);
}

TEST(TextArguments, WhatEmbeddingsAreLookedUpByComesBeforeNames) {
  const std::vector<std::string> names = {"ids", "position_ids", "codes"};
  EXPECT_EQ(find(names, {hook("language_model", along(2, {1, 2}, {}))}).ids, 2u);
  EXPECT_EQ(find(names, {hook("language_model", along(2, {1, 2, 0}, {}))}).ids, 0u) << "names break ties";
  EXPECT_EQ(find(names, {hook("language_model", along(2, {1, 2}, {}))}, {"ids", ""}).ids, 0u);
  EXPECT_FALSE(find({"position_ids"}, {hook("language_model", along(0, {0}, {}))}).ids);
}

TEST(TextArguments, TwoTextsAreTheEncodersAndTheDecoders) {
  const std::vector<std::string> names = {"source", "target"};
  for (const auto& components : {std::pair{"encoder", "decoder"}, std::pair{"language_model", "language_model"}}) {
    const auto found =
        find(names, {hook(components.first, along(0, {0}, {})), hook(components.second, along(1, {1}, {}))});
    EXPECT_EQ(found.ids, 0u);
    EXPECT_EQ(found.decoder_ids, 1u);
    EXPECT_EQ(found.texts_of_hooks, (std::vector{TextOfComponent::kText, TextOfComponent::kDecoder}));
  }
}

TEST(TextArguments, TowersAndPooledRoutersSeeNoText) {
  hooks::TokenLayout pooled = along(0, {}, {});
  pooled.dims.pop_back();
  const auto found = find({"input_ids", "pixels"}, {hook("vision_tower", along(1, {}, {})),
                                                    hook("language_model", pooled), hook("language_model")});
  EXPECT_EQ(found.texts_of_hooks,
            (std::vector{TextOfComponent::kNone, TextOfComponent::kNone, TextOfComponent::kText}));
  EXPECT_EQ(found.batches.size(), 2u);
}

TEST(TextArguments, AMaskRunsAlongTheTokens) {
  const std::vector<std::string> names = {"src", "mask", "keep"};
  const auto found = find(
      names,
      {hook("language_model",
            along(0, {}, {{1, MaskDims::kOther, MaskMeans::kPadding}, {2, MaskDims::kTokens, MaskMeans::kPadding}}))});
  EXPECT_EQ(found.mask, 2u);
  EXPECT_EQ(found.reading.mask_means, MaskMeans::kPadding);
  const auto none = find(names, {hook("language_model", along(0, {}, {{1, MaskDims::kOther, MaskMeans::kAuto}}))});
  EXPECT_FALSE(none.mask);
  const auto by_name = find(names, {hook("language_model", along(0, {}, {{1, MaskDims::kUnknown, MaskMeans::kAuto}}))});
  EXPECT_EQ(by_name.mask, 1u);
  EXPECT_EQ(
      find(names, {hook("language_model", along(0, {}, {{1, MaskDims::kOther, MaskMeans::kAuto}}))}, {"", "mask"}).mask,
      1u)
      << "the user knows better";
}

TEST(TextArguments, WhatAMaskMeans) {
  const auto means = [](const std::string& name, MaskMeans in_graph, MaskMeans setting) {
    const auto found = find({"ids", name}, {hook("language_model", along(0, {0}, {{1, MaskDims::kTokens, in_graph}}))},
                            {"", name, setting});
    return found.reading.mask_means;
  };
  EXPECT_EQ(means("attention_mask", MaskMeans::kAuto, MaskMeans::kAuto), MaskMeans::kAuto);
  EXPECT_EQ(means("attention_mask", MaskMeans::kAdditive, MaskMeans::kAuto), MaskMeans::kAdditive);
  EXPECT_EQ(means("src_key_padding_mask", MaskMeans::kAuto, MaskMeans::kAuto), MaskMeans::kPadding);
  EXPECT_EQ(means("padding_mask", MaskMeans::kValid, MaskMeans::kAuto), MaskMeans::kValid) << "its use comes first";
  EXPECT_EQ(means("padding_mask", MaskMeans::kValid, MaskMeans::kAdditive), MaskMeans::kAdditive);
}

TEST(TextArguments, AMaskOverAStaticCache) {
  const std::vector<std::string> names = {"ids", "keep", "cache_position"};
  const auto of = [&](int64_t places) { return along(0, {0}, {{1, MaskDims::kBuffer, MaskMeans::kValid, places}}); };
  const auto found = find(names, {hook("language_model", of(2))});
  EXPECT_EQ(found.mask, 1u);
  EXPECT_TRUE(found.reading.mask_in_buffer);
  EXPECT_EQ(found.mask_places, 2u);
  EXPECT_FALSE(find(names, {hook("language_model", of(-1))}).mask_places);
  // Another layer shows less, or something else.
  const auto both = find(names, {hook("language_model", along(0, {0}, {{1, MaskDims::kUnknown, MaskMeans::kValid}})),
                                 hook("language_model", of(2))});
  EXPECT_EQ(both.mask_places, 2u);
  const auto two = find(names, {hook("language_model", of(2)), hook("language_model", of(0))});
  EXPECT_TRUE(two.reading.mask_in_buffer);
  EXPECT_FALSE(two.mask_places);
}

TEST(TextArguments, AMaskOverKeysBehindTheTokens) {
  const std::vector<std::string> names = {"ids", "keep", "memory"};
  const auto mask_of = [](MaskDims dims) { return std::vector<hooks::TokenMask>{{1, dims, MaskMeans::kValid}}; };
  for (const bool own_first : {true, false}) {
    hooks::HookPoint attention = hook("language_model", along(0, {0}, {}));
    attention.kind = hooks::HookKind::kAttention;
    attention.self_attention = true;
    attention.key_tokens = along(0, {0}, mask_of(MaskDims::kTokens));
    hooks::TokenDim& keys = attention.key_tokens.dims[1];
    keys.parts = {{TokenDimRole::kOther, {{0, 1, 2}}}, {TokenDimRole::kOther, {{2, 1, 3}}}};
    if (!own_first) std::swap(keys.parts[0], keys.parts[1]);
    keys.arguments.clear();
    // A router of the same text does not know the mask, or knows less.
    const auto found = find(names, {hook("language_model", along(0, {0}, mask_of(MaskDims::kUnknown))), attention});
    EXPECT_EQ(found.mask, 1u);
    EXPECT_EQ(found.reading.mask_in_buffer, own_first) << "its last columns are not the tokens";
    EXPECT_FALSE(found.mask_places);
  }
}

TEST(TextArguments, WhichTokensAreLeft) {
  hooks::TokenLayout packed = along(0, {0}, {});
  packed.packed = hooks::TokenPacking{1};
  EXPECT_EQ(find({"ids", "keep"}, {hook("language_model", packed), hook("language_model", packed)}).packings,
            std::vector<size_t>{1});
  EXPECT_TRUE(find({"ids", "keep"}, {hook("language_model", along(0, {0}, {}))}).packings.empty());
}

TEST(TextArguments, SequenceFirst) {
  const auto found =
      find({"ids", "mask"}, {hook("language_model", along(0, {0}, {{1, MaskDims::kTransposed, MaskMeans::kAuto}},
                                                          /*sequence_first=*/true))});
  EXPECT_TRUE(found.reading.ids_sequence_first);
  EXPECT_TRUE(found.reading.mask_sequence_first);
}

}  // namespace
}  // namespace moetap::plugin
