#include "plugin/capture/token_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace moetap::plugin {
namespace {

using Sizes = std::vector<int64_t>;

at::Tensor longs(std::vector<int64_t> values) {
  return at::tensor(values, at::kLong);
}

void expect_equal(const at::Tensor& actual, const at::Tensor& expected) {
  ASSERT_TRUE(actual.defined());
  EXPECT_TRUE(actual.scalar_type() == expected.scalar_type() && actual.sizes() == expected.sizes() &&
              at::equal(actual, expected))
      << "actual:\n"
      << actual << "\nexpected:\n"
      << expected;
}

at::Tensor bools(std::vector<int64_t> values, at::IntArrayRef sizes) {
  return longs(values).to(at::kBool).reshape(sizes);
}

TEST(TextArguments, AreFoundByName) {
  const auto found = find_text_arguments({"pixel_values", "attention_mask", "input_ids", "decoder_input_ids"}, "", "");
  EXPECT_EQ(found.ids, 2u);
  EXPECT_EQ(found.mask, 1u);
  EXPECT_EQ(found.decoder_ids, 3u);
  EXPECT_EQ(found.decoder_mask, std::nullopt);
  const auto named = find_text_arguments({"input_ids", "codes", "keep"}, "codes", "keep");
  EXPECT_EQ(named.ids, 1u);
  EXPECT_EQ(named.mask, 2u);
  EXPECT_EQ(find_text_arguments({"input_ids"}, "codes", "").ids, std::nullopt);
}

TEST(ReadText, MasksOfAllKinds) {
  const auto ids = longs({5, 6, 7, 8, 9, 0}).reshape({2, 3});
  const auto expected = bools({1, 1, 1, 1, 1, 0}, {2, 3});
  for (const auto& mask : {expected, expected.to(at::kLong), expected.to(at::kFloat), expected.to(at::kInt).mul(7),
                           expected.to(at::kFloat).sub(1).mul(1e9), at::where(expected, 0.0, -INFINITY)}) {
    const auto text = read_text(ids, mask, true);
    EXPECT_EQ(text.batch, 2);
    EXPECT_EQ(text.length, 3);
    expect_equal(text.valid, expected);
    EXPECT_EQ(text.notice, "");
  }
  EXPECT_FALSE(read_text(ids, {}, true).valid.defined());
  EXPECT_EQ(read_text({}, expected, true).batch, 2);
  EXPECT_EQ(read_text({}, {}, true).batch, 0);
  EXPECT_EQ(read_text(longs({1, 2}), {}, true).batch, 1);
}

TEST(ReadText, CopiesWhatTheModelMayChange) {
  const auto ids = longs({5, 6}).reshape({1, 2});
  const auto mask = longs({1, 0}).reshape({1, 2});
  const auto text = read_text(ids, mask, true);
  ids.zero_();
  mask.zero_();
  expect_equal(text.ids, longs({5, 6}).reshape({1, 2}));
  expect_equal(text.valid, bools({1, 0}, {1, 2}));
  EXPECT_FALSE(read_text(ids, mask, false).ids.defined());
}

TEST(ReadText, MaskOfAKeyValueCacheCountsWithItsEnd) {
  const auto text = read_text(longs({4, 5}).reshape({2, 1}), longs({0, 1, 1, 1, 1, 0}).reshape({2, 3}), false);
  expect_equal(text.valid, bools({1, 0}, {2, 1}));
}

TEST(ReadText, WhatItCannotReadIsNoticed) {
  const auto ids = longs({4, 5, 6, 7}).reshape({2, 2});
  const auto four_dims = read_text(ids, at::ones({2, 1, 2, 2}), false);
  EXPECT_EQ(four_dims.notice, "the token mask must be [B, S], others are not used");
  EXPECT_EQ(four_dims.notice_detail, "expected [B = 2, S = 2 or more], got [2, 1, 2, 2]");
  EXPECT_FALSE(four_dims.valid.defined());
  EXPECT_NE(read_text(ids, at::ones({3, 2}), false).notice, "");
  EXPECT_NE(read_text(ids, at::ones({2, 1}), false).notice, "");
  EXPECT_NE(read_text(at::ones({2, 2}), {}, false).notice.find("must be integers"), std::string::npos);
}

TEST(Attribution, TextWhereTheTokenCountFits) {
  const auto text = read_text(at::zeros({2, 3}, at::kLong), {}, false);
  for (const Sizes& sizes : {Sizes{6}, Sizes{2, 3}, Sizes{1, 6}}) {
    const auto attribution = attribute_tokens(sizes, &text, 2);
    EXPECT_TRUE(attribution.text);
    EXPECT_TRUE(attribution.attributed);
    EXPECT_EQ(attribution.num_rows, 2);
    EXPECT_EQ(attribution.order, TokenOrder::kBatchFirst);
  }
  EXPECT_EQ(attribute_tokens({3, 2}, &text, 2).order, TokenOrder::kSequenceFirst);
}

TEST(Attribution, TowersNeverUseTheText) {
  const auto flat = attribute_tokens({6}, nullptr, 2);
  EXPECT_FALSE(flat.attributed);
  EXPECT_EQ(flat.num_rows, 1);
  EXPECT_TRUE(attribute_tokens({6}, nullptr, 1).attributed);
  const auto batched = attribute_tokens({2, 9}, nullptr, 2);
  EXPECT_TRUE(batched.attributed);
  EXPECT_FALSE(batched.text);
  EXPECT_EQ(batched.num_rows, 2);
  EXPECT_FALSE(attribute_tokens({3, 9}, nullptr, 2).attributed);
}

TEST(Attribution, OtherLengthThanTheIds) {
  const auto text = read_text(at::zeros({2, 3}, at::kLong), {}, false);
  const auto cached = attribute_tokens({2, 1}, &text, 2);
  EXPECT_TRUE(cached.attributed);
  EXPECT_FALSE(cached.text);
  EXPECT_EQ(cached.num_rows, 2);
  EXPECT_FALSE(attribute_tokens({4}, &text, 2).attributed);
  const auto unknown = attribute_tokens({4}, nullptr, std::nullopt);
  EXPECT_TRUE(unknown.assumes_one_sample);
  EXPECT_EQ(unknown.num_rows, 1);
}

TEST(Attribution, BatchOfARouter) {
  EXPECT_EQ(batch_of_router({4}), std::nullopt);
  EXPECT_EQ(batch_of_router({4, 7}), 4);
  EXPECT_EQ(batch_of_router({3, 5, 7}), 3);
}

TEST(TokenRows, ColumnsInBothOrders) {
  Attribution attribution;
  attribution.text = true;
  attribution.num_rows = 2;
  EXPECT_EQ(rows_for(attribution, {}).order, analysis::RowOrder::kRowByRow);
  expect_equal(row_column(attribution, 6), longs({0, 0, 0, 1, 1, 1}));
  expect_equal(position_column(attribution, 6), longs({0, 1, 2, 0, 1, 2}).to(at::kInt));

  attribution.order = TokenOrder::kSequenceFirst;
  const auto valid = bools({1, 0, 1, 0, 1, 1}, {6});
  const analysis::TokenRows rows = rows_for(attribution, valid);
  EXPECT_EQ(rows.order, analysis::RowOrder::kInterleaved);
  EXPECT_EQ(rows.num_rows, 2);
  EXPECT_TRUE(rows.valid.is_same(valid));
  expect_equal(row_column(attribution, 6), longs({0, 1, 0, 1, 0, 1}));
  expect_equal(position_column(attribution, 6), longs({0, 0, 1, 1, 2, 2}).to(at::kInt));
}

TEST(TokenRows, PlaceInTheCallElsewhere) {
  Attribution attribution;
  attribution.num_rows = 2;
  expect_equal(position_column(attribution, 4), longs({0, 1, 2, 3}).to(at::kInt));
  expect_equal(row_column(attribution, 4), longs({0, 0, 1, 1}));
  attribution.attributed = false;
  attribution.num_rows = 1;
  expect_equal(row_column(attribution, 3), longs({-1, -1, -1}));
  expect_equal(row_column({}, 0), at::empty({0}, at::kLong));
}

}  // namespace
}  // namespace moetap::plugin
