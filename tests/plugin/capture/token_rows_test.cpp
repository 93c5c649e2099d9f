#include "plugin/capture/token_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/plugin/support/tensors.h"

namespace moetap::plugin {
namespace {

using Sizes = std::vector<int64_t>;

TextTokens text_of(int64_t batch, int64_t length) {
  return read_text(at::zeros({batch, length}, at::kLong), {}, true);
}

TokenPlaces places(int64_t batch, int64_t batch_step, int64_t length, int64_t sequence_step) {
  return {batch, batch_step, true, length, sequence_step};
}

TEST(Attribution, ByPlacesWhateverTheSizes) {
  const auto text = text_of(3, 3);
  const auto first = attribute_tokens(places(3, 3, 3, 1), &text, 0u, 3, 9);
  const auto last = attribute_tokens(places(3, 1, 3, 3), &text, 0u, 3, 9);
  for (const auto& attribution : {first, last}) {
    EXPECT_TRUE(attribution.attributed);
    EXPECT_TRUE(attribution.text);
    EXPECT_EQ(attribution.num_rows, 3);
  }
  expect_equal(row_column(first, 9), longs({0, 0, 0, 1, 1, 1, 2, 2, 2}));
  expect_equal(row_column(last, 9), longs({0, 1, 2, 0, 1, 2, 0, 1, 2}));
  expect_equal(position_column(last, 9), longs({0, 0, 0, 1, 1, 1, 2, 2, 2}).to(at::kInt));
}

TEST(Attribution, OfWhatHasNoSequence) {
  TokenPlaces pooled;
  pooled.batch = 3;
  const auto one_each = attribute_tokens(pooled, nullptr, std::nullopt, 3, 3);
  expect_equal(row_column(one_each, 3), longs({0, 1, 2}));
  expect_equal(position_column(one_each, 3), longs({-1, -1, -1}).to(at::kInt));
  pooled.batch_step = 2;  // a tower of two tokens
  const auto tower = attribute_tokens(pooled, nullptr, std::nullopt, 3, 6);
  expect_equal(row_column(tower, 6), longs({0, 0, 1, 1, 2, 2}));
  expect_equal(position_column(tower, 6), longs({0, 1, 2, 3, 4, 5}).to(at::kInt));
}

TEST(Attribution, ADecoderOfOtherSequencesThanTheSamples) {
  const auto text = text_of(4, 3);
  EXPECT_FALSE(attribute_tokens(places(4, 3, 3, 1), &text, 0u, 2, 12).attributed);
}

TEST(Attribution, OfTokensThatAreLeft) {
  const at::Tensor mask = longs({1, 0, 1, 1, 1, 0}).reshape({2, 3});
  const auto packed = [&](const TokenPlaces& all, hooks::Comparison keeps, double number) {
    Attribution attribution = attribute_tokens(all, nullptr, std::nullopt, 2, 6);
    attribution.packed = hooks::TokenPacking{1, keeps, number};
    attribution.num_places = 6;
    return attribution;
  };
  const auto batch_first = packed(places(2, 3, 3, 1), hooks::Comparison::kNotEqual, 0);
  const at::Tensor left = packed_places(batch_first, mask, /*transposed=*/false, 4);
  expect_equal(left, longs({0, 2, 3, 4}));
  expect_equal(row_column(batch_first, 4, left), longs({0, 0, 1, 1}));
  expect_equal(position_column(batch_first, 4, left), longs({0, 2, 0, 1}).to(at::kInt));
  expect_equal(rows_for(batch_first, {}, 4, at::kCPU, left).row, longs({0, 0, 1, 1}));
  expect_equal(rows_for(batch_first, bools({1, 1, 0, 1}, {4}), 4, at::kCPU, left).row, longs({0, 0, -1, 1}));
  // The rows run along the sequence first; so does the mask, or not.
  const auto sequence_first = packed(places(2, 1, 3, 2), hooks::Comparison::kGreater, 0.5);
  for (const bool transposed : {false, true}) {
    const at::Tensor own = transposed ? mask.t() : mask;
    const at::Tensor first = packed_places(sequence_first, own, transposed, 4);
    expect_equal(row_column(sequence_first, 4, first), longs({0, 1, 1, 0}));
    expect_equal(position_column(sequence_first, 4, first), longs({0, 0, 1, 2}).to(at::kInt));
  }
  expect_equal(packed_places(packed(places(2, 3, 3, 1), hooks::Comparison::kEqual, 0), mask, false, 2), longs({1, 5}));
  EXPECT_FALSE(packed_places(batch_first, mask, false, 3).defined()) << "other rows than those that are left";
  EXPECT_FALSE(packed_places(batch_first, mask.narrow(1, 0, 2), false, 3).defined());
}

TEST(Attribution, ImageAndTextBehindEachOther) {
  const auto ids = longs({5, 6, 7, 8}).reshape({2, 2});
  auto both = places(2, 5, 5, 1);
  both.parts = {{}, {hooks::TokenDimRole::kOther, {{1, 1, 2}}}};
  both.part_sizes = {3, 2};
  const auto text = read_text(ids, {}, true);
  const auto attribution = attribute_tokens(both, &text, 1u, 2, 10);
  EXPECT_TRUE(attribution.text);
  expect_equal(in_token_order(text.ids, attribution.ids, attribution, 10, -1),
               longs({-1, -1, -1, 5, 6, -1, -1, -1, 7, 8}));
  const auto of_text = read_text(ids, bools({1, 0, 1, 1}, {2, 2}), true);
  const auto masked = attribute_tokens(both, &of_text, 1u, 2, 10);
  expect_equal(in_token_order(of_text.valid, masked.mask, masked, 10, 1), bools({1, 1, 1, 1, 0, 1, 1, 1, 1, 1}, {10}));
  const auto of_both = read_text(ids, bools({1, 1, 0, 1, 0, 1, 1, 1, 1, 1}, {2, 5}), true);
  const auto whole = attribute_tokens(both, &of_both, 1u, 2, 10);
  EXPECT_TRUE(whole.whole_mask);
  expect_equal(in_token_order(of_both.mask, whole.mask, whole, 10, 1), bools({1, 1, 0, 1, 0, 1, 1, 1, 1, 1}, {10}));
}

TEST(AttributionBySizes, TextWhereTheTokenCountFits) {
  const auto text = text_of(2, 3);
  for (const Sizes& sizes : {Sizes{6}, Sizes{2, 3}, Sizes{1, 6}}) {
    const auto attribution = attribute_tokens(sizes, &text, 2);
    EXPECT_TRUE(attribution.text);
    EXPECT_TRUE(attribution.attributed);
    EXPECT_EQ(attribution.num_rows, 2);
    EXPECT_EQ(attribution.row_step, 3);
  }
  EXPECT_EQ(attribute_tokens(Sizes{3, 2}, &text, 2).row_step, 1);
  const auto square = text_of(3, 3);
  EXPECT_FALSE(attribute_tokens(Sizes{3, 3}, &square, 3).attributed) << "in which order?";
}

TEST(AttributionBySizes, TowersNeverUseTheText) {
  const auto flat = attribute_tokens(Sizes{6}, nullptr, 2);
  EXPECT_FALSE(flat.attributed);
  EXPECT_EQ(flat.num_rows, 1);
  EXPECT_TRUE(attribute_tokens(Sizes{6}, nullptr, 1).attributed);
  const auto batched = attribute_tokens(Sizes{2, 9}, nullptr, 2);
  EXPECT_TRUE(batched.attributed);
  EXPECT_FALSE(batched.text);
  EXPECT_EQ(batched.num_rows, 2);
  EXPECT_FALSE(attribute_tokens(Sizes{3, 9}, nullptr, 2).attributed);
  EXPECT_FALSE(attribute_tokens(Sizes{2, 2}, nullptr, 2).attributed) << "in which order?";
  EXPECT_FALSE(attribute_tokens(Sizes{2}, nullptr, 2).attributed) << "of one sample, or one of each?";
}

TEST(AttributionBySizes, OtherLengthThanTheIds) {
  const auto text = text_of(2, 3);
  const auto cached = attribute_tokens(Sizes{2, 1}, &text, 2);
  EXPECT_TRUE(cached.attributed);
  EXPECT_FALSE(cached.text);
  EXPECT_EQ(cached.num_rows, 2);
  EXPECT_FALSE(attribute_tokens(Sizes{4}, &text, 2).attributed);
}

TEST(AttributionBySizes, NothingShowsTheSamples) {
  const auto unknown = attribute_tokens(Sizes{4}, nullptr, std::nullopt);
  EXPECT_FALSE(unknown.attributed);
  expect_equal(row_column(unknown, 4), longs({-1, -1, -1, -1}));
}

TEST(AttributionBySizes, BatchOfARouter) {
  EXPECT_EQ(batch_of_router({4}), std::nullopt);
  EXPECT_EQ(batch_of_router({4, 7}), 4);
  EXPECT_EQ(batch_of_router({3, 5, 7}), 3);
}

TEST(TokenRows, OfEachOrder) {
  const auto valid = bools({1, 0, 1, 0, 1, 1}, {6});
  Attribution attribution;
  attribution.num_rows = 2;
  attribution.row_step = 3;
  EXPECT_EQ(rows_for(attribution, {}, 6, at::kCPU).order, analysis::RowOrder::kRowByRow);
  attribution.row_step = 1;
  const analysis::TokenRows rows = rows_for(attribution, valid, 6, at::kCPU);
  EXPECT_EQ(rows.order, analysis::RowOrder::kInterleaved);
  EXPECT_EQ(rows.num_rows, 2);
  EXPECT_TRUE(rows.valid.is_same(valid));
  // Neither the first nor the last dimension: [3, 2 samples, 2].
  attribution.row_step = 2;
  const analysis::TokenRows between = rows_for(attribution, {}, 12, at::kCPU);
  expect_equal(between.row, longs({0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1}));
  attribution.row_step = 1;
  attribution.num_rows = 3;
  EXPECT_EQ(rows_for(attribution, {}, 12, at::kCPU).order, analysis::RowOrder::kInterleaved);
}

TEST(TokenRows, MaskedTokensBetween) {
  Attribution attribution;
  attribution.num_rows = 2;
  attribution.row_step = 2;
  const analysis::TokenRows rows = rows_for(attribution, bools({1, 0, 1, 1, 1, 1, 0, 1}, {8}), 8, at::kCPU);
  EXPECT_FALSE(rows.valid.defined());
  expect_equal(rows.row, longs({0, -1, 1, 1, 0, 0, -1, 1}));
}

TEST(TokenRows, WithoutTokens) {
  expect_equal(row_column({}, 0), at::empty({0}, at::kLong));
  expect_equal(position_column({}, 0), at::empty({0}, at::kInt));
}

}  // namespace
}  // namespace moetap::plugin
