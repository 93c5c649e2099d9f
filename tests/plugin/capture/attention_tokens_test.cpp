#include "plugin/capture/attention_tokens.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "plugin/capture/host_copies.h"
#include "tests/plugin/support/tensors.h"

namespace moetap::plugin {
namespace {

using Arguments = c10::List<std::optional<at::Tensor>>;

at::Tensor ints(std::vector<int64_t> values, at::IntArrayRef sizes) {
  return longs(std::move(values)).to(at::kInt).reshape(sizes);
}
at::Tensor bytes(std::vector<int64_t> values, at::IntArrayRef sizes) {
  return longs(std::move(values)).to(at::kByte).reshape(sizes);
}

/// [batch, sequence] of an argument.
hooks::TokenLayout batch_and_sequence(int64_t argument = 0) {
  hooks::TokenLayout layout;
  layout.known = true;
  layout.dims = {{hooks::TokenDimRole::kBatch, {{argument, 0, 2}}},
                 {hooks::TokenDimRole::kSequence, {{argument, 1, 2}}}};
  return layout;
}

/// One forward with the arguments ids, mask, decoder ids, decoder mask.
class AttentionTokensTest : public testing::Test {
 protected:
  AttentionTokensTest() {
    hook_.kind = hooks::HookKind::kAttention;
    hook_.component = "language_model";
    hook_.self_attention = true;
  }

  void read(const Arguments& arguments) {
    tokens_ = std::make_unique<ForwardTokens>();
    text_arguments_ = {};
    text_arguments_.ids = 0;
    text_arguments_.mask = 1;
    if (arguments.size() > 2) text_arguments_.decoder_ids = 2;
    if (arguments.size() > 3) text_arguments_.decoder_mask = 3;
    tokens_->read(text_arguments_, arguments, /*keep_ids=*/true, copies_,
                  [](const std::string& what, const std::string&) { ADD_FAILURE() << what; });
  }

  AttentionPlaces place(int64_t batch, int64_t queries, int64_t keys) {
    return place_attention(*tokens_, AttentionHook(hook_), {batch, queries, keys, c10::kCPU},
                           {regions_, region_argument_, cached_, samples_}, &copies_);
  }

  hooks::HookPoint hook_;
  HostCopies copies_;
  TextArguments text_arguments_;  // outlives the tokens
  std::unique_ptr<ForwardTokens> tokens_;
  AttentionRegions regions_;
  at::Tensor region_argument_;
  CachedRegions cached_;
  std::vector<int64_t> samples_ = {0, 1};
};

TEST_F(AttentionTokensTest, AStaticCacheIsRefused) {
  hook_.keys_in_buffer = true;
  read({longs({1, 2, 3, 4}).reshape({2, 2}), std::nullopt});
  EXPECT_THROW(place(2, 2, 8), c10::Error);
  expect_equal(place(2, 2, 2).tokens.query_position, ints({0, 1, 0, 1}, {2, 2}));
}

TEST_F(AttentionTokensTest, AMaskOverSomeOfTheKeysIsRefused) {
  read({longs({1, 2}).reshape({2, 1}), longs({1, 1, 1, 0, 1, 1}).reshape({2, 3})});
  EXPECT_THROW(place(2, 1, 8), c10::Error);
  expect_equal(place(2, 1, 3).tokens.query_position, ints({2, 1}, {2, 1}));
}

TEST_F(AttentionTokensTest, PaddingOnEitherSideHasNoPosition) {
  for (const bool known : {false, true}) {
    if (known) hook_.tokens = hook_.key_tokens = batch_and_sequence();
    read({longs({1, 2, 3, 4, 5, 6}).reshape({2, 3}), longs({0, 1, 1, 1, 1, 0}).reshape({2, 3})});
    const AttentionPlaces places = place(2, 3, 3);
    expect_equal(places.tokens.query_position, ints({-1, 0, 1, 0, 1, -1}, {2, 3}));
    expect_equal(places.tokens.key_position, places.tokens.query_position);
    EXPECT_TRUE(places.tokens.self);
    EXPECT_EQ(places.tokens.num_regions, 5);
    EXPECT_FALSE(places.tokens.query_region.defined()) << "parts are made of positions";
    EXPECT_EQ(places.queries->attribution.num_rows, 2);
    EXPECT_TRUE(places.queries->attribution.attributed);
  }
}

TEST_F(AttentionTokensTest, ACacheStandsBeforeTheQueries) {
  // A prompt of 3 with padding on the left, then two steps; the mask covers all.
  read({longs({7, 8}).reshape({2, 1}), longs({0, 1, 1, 1, 1, 1, 1, 1}).reshape({2, 4})});
  const AttentionPlaces places = place(2, 1, 4);
  expect_equal(places.tokens.key_position, ints({-1, 0, 1, 2, 0, 1, 2, 3}, {2, 4}));
  expect_equal(places.tokens.query_position, ints({2, 3}, {2, 1}));
  EXPECT_TRUE(places.tokens.self);
}

TEST_F(AttentionTokensTest, ACacheWithoutAMaskOverItIsOfTokens) {
  read({longs({7, 8}).reshape({1, 2}), std::nullopt});
  const AttentionPlaces places = place(1, 2, 5);
  expect_equal(places.tokens.key_position, ints({0, 1, 2, 3, 4}, {1, 5}));
  expect_equal(places.tokens.query_position, ints({3, 4}, {1, 2}));
}

TEST_F(AttentionTokensTest, CrossAttentionHasTheKeysOfTheEncoder) {
  hook_.component = "decoder";
  hook_.self_attention = false;
  hook_.tokens = batch_and_sequence(2);
  hook_.key_tokens = batch_and_sequence();
  regions_ = AttentionRegions::from_text("tokens:a=1,5");
  read({longs({1, 2, 3, 4, 5, 6}).reshape({2, 3}), longs({1, 1, 0, 0, 1, 1}).reshape({2, 3}),
        longs({1, 9, 5, 5}).reshape({2, 2}), longs({1, 1, 1, 0}).reshape({2, 2})});
  const AttentionPlaces places = place(2, 2, 3);
  EXPECT_FALSE(places.tokens.self);
  expect_equal(places.tokens.query_position, ints({0, 1, 0, -1}, {2, 2}));
  expect_equal(places.tokens.key_position, ints({0, 1, -1, -1, 0, 1}, {2, 3}));
  expect_equal(places.tokens.query_region, bytes({0, 1, 0, 0}, {2, 2}));
  expect_equal(places.tokens.key_region, bytes({0, 1, 1, 1, 0, 1}, {2, 3}));
}

TEST_F(AttentionTokensTest, AsManyKeysAsQueriesMakeNoSelfAttention) {
  hook_.component = "decoder";
  hook_.self_attention = false;
  read({longs({1, 2}).reshape({1, 2}), longs({0, 1}).reshape({1, 2}), longs({3, 4}).reshape({1, 2})});
  const AttentionPlaces places = place(1, 2, 2);
  EXPECT_FALSE(places.tokens.self);
  expect_equal(places.tokens.query_position, ints({0, 1}, {1, 2}));
  expect_equal(places.tokens.key_position, ints({-1, 0}, {1, 2}));
}

TEST_F(AttentionTokensTest, RegionsByTokenIdAreKnownOfCachedTokens) {
  regions_ = AttentionRegions::from_text("tokens:image=7;code=8,9");
  read({longs({7, 1, 9, 8, 8, 7}).reshape({2, 3}), std::nullopt});
  const AttentionPlaces prompt = place(2, 3, 3);
  EXPECT_EQ(prompt.tokens.num_regions, 3);
  expect_equal(prompt.tokens.query_region, bytes({0, 2, 1, 1, 1, 0}, {2, 3}));
  expect_equal(prompt.tokens.key_region, prompt.tokens.query_region);

  read({longs({3, 9}).reshape({2, 1}), std::nullopt});
  for (int layer = 0; layer < 2; ++layer) {
    const AttentionPlaces step = place(2, 1, 4);
    expect_equal(step.tokens.query_region, bytes({2, 1}, {2, 1}));
    expect_equal(step.tokens.key_region, bytes({0, 2, 1, 2, 1, 1, 0, 1}, {2, 4}));
  }

  samples_ = {4, 5};  // nobody saw their prompts: cached tokens are of the last region
  expect_equal(place(2, 1, 4).tokens.key_region, bytes({2, 2, 2, 2, 2, 2, 2, 1}, {2, 4}));
}

TEST_F(AttentionTokensTest, RegionsByArgument) {
  regions_ = AttentionRegions::from_text("argument:kinds");
  read({longs({1, 2, 3, 4}).reshape({2, 2}), std::nullopt});
  region_argument_ = longs({0, 14, -1, 16}).reshape({2, 2});
  const AttentionPlaces places = place(2, 2, 2);
  EXPECT_EQ(places.tokens.num_regions, 16);
  expect_equal(places.tokens.query_region, bytes({0, 14, 15, 15}, {2, 2}));
  expect_equal(places.tokens.key_region, places.tokens.query_region);

  // As a mask, an argument may cover the cache: its last columns are the queries.
  region_argument_ = longs({1, 2, 3, 4, 5, 6, 7, 8}).reshape({2, 4});
  const AttentionPlaces behind = place(2, 2, 4);
  expect_equal(behind.tokens.query_region, bytes({3, 4, 7, 8}, {2, 2}));
  expect_equal(behind.tokens.key_region, bytes({1, 2, 3, 4, 5, 6, 7, 8}, {2, 4}));

  region_argument_ = longs({1, 2}).reshape({1, 2});  // of another batch: it says nothing
  expect_equal(place(2, 2, 2).tokens.query_region, bytes({15, 15, 15, 15}, {2, 2}));
}

TEST_F(AttentionTokensTest, ALayoutWithTheSequenceFirstIsTurned) {
  hook_.tokens = batch_and_sequence();
  std::swap(hook_.tokens.dims[0], hook_.tokens.dims[1]);
  EXPECT_EQ(AttentionHook(hook_).queries(), batch_and_sequence());
  regions_ = AttentionRegions::from_text("tokens:a=2,3");
  read({longs({1, 2, 3, 4, 5, 6}).reshape({2, 3}), longs({1, 1, 0, 1, 1, 1}).reshape({2, 3})});
  const AttentionPlaces places = place(2, 3, 3);
  expect_equal(places.tokens.query_position, ints({0, 1, -1, 0, 1, 2}, {2, 3}));
  expect_equal(places.tokens.query_region, bytes({1, 0, 0, 1, 1, 1}, {2, 3}));
}

TEST(RankAmongValidTest, CountsValidTokensOnly) {
  expect_equal(rank_among_valid(bools({1, 0, 1, 1, 0, 0, 0, 1}, {2, 4})), ints({0, -1, 1, 2, -1, -1, -1, 0}, {2, 4}));
}

}  // namespace
}  // namespace moetap::plugin
