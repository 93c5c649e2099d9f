#include "plugin/capture/text_tokens.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/plugin/support/tensors.h"

namespace moetap::plugin {
namespace {

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

TEST(ReadText, MasksOverAStaticCache) {
  const auto ids = longs({5, 6, 7, 8}).reshape({2, 2});
  const auto mask = longs({0, 1, 1, 0, 0, 1, 1, 0, 0, 0}).reshape({2, 5});
  TextReading reading;
  reading.mask_in_buffer = true;
  const auto valid_at = [&](const at::Tensor& places) { return read_text(ids, mask, true, reading, places).valid; };
  expect_equal(valid_at(longs({0, 1})), bools({0, 1, 1, 1}, {2, 2}));
  expect_equal(valid_at(longs({1, 2}).to(at::kInt).reshape({1, 2})), bools({1, 1, 1, 0}, {2, 2}));
  expect_equal(valid_at(longs({1, 2, 0, 1}).reshape({2, 2})), bools({1, 1, 1, 1}, {2, 2}));
  for (const auto& places : {at::Tensor(), longs({3}), longs({1, 2, 3}), at::zeros({2})}) {
    const auto text = read_text(ids, mask, true, reading, places);
    EXPECT_FALSE(text.valid.defined());
    EXPECT_NE(text.notice.find("static cache"), std::string::npos);
    EXPECT_EQ(text.mask_columns, 5) << "the keys' mask is known";
  }
  expect_equal(read_text(ids, mask.narrow(1, 0, 2), true, reading).valid, bools({0, 1, 1, 1}, {2, 2}));
  EXPECT_NE(read_text({}, mask, true, reading, longs({0, 1})).notice, "");
  const auto step = longs({5, 6}).reshape({2, 1});
  expect_equal(read_text(step, mask, true, reading, longs({2})).valid, bools({1, 0}, {2, 1}));
  expect_equal(read_text(step, mask, true, reading, longs({2, 0})).valid, bools({1, 1}, {2, 1}));
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

TEST(ReadText, SequenceFirst) {
  TextReading reading;
  reading.ids_sequence_first = true;
  const auto ids = longs({5, 6, 7, 8, 9, 0}).reshape({3, 2});  // S = 3, B = 2
  const auto mask = bools({1, 1, 1, 1, 1, 0}, {2, 3});
  const auto text = read_text(ids, mask, true, reading);
  EXPECT_EQ(text.batch, 2);
  EXPECT_EQ(text.length, 3);
  expect_equal(text.ids, longs({5, 7, 9, 6, 8, 0}).reshape({2, 3}));
  reading.mask_sequence_first = true;
  expect_equal(read_text(ids, bools({1, 1, 1, 0, 1, 0}, {3, 2}), true, reading).valid,
               bools({1, 1, 1, 1, 0, 0}, {2, 3}));
}

TEST(ReadMask, MeansWhatTheUserOrTheGraphSays) {
  using hooks::MaskMeans;
  const auto mask = longs({1, 0, 1});
  const auto first_and_last = bools({1, 0, 1}, {3}), middle = bools({0, 1, 0}, {3});
  for (const auto type : {at::kBool, at::kLong, at::kFloat}) {
    expect_equal(read_mask(mask.to(type), MaskMeans::kValid), first_and_last);
    expect_equal(read_mask(mask.to(type), MaskMeans::kPadding), middle);
    expect_equal(read_mask(mask.to(type), MaskMeans::kAuto), first_and_last);
  }
  const auto additive = at::tensor({0.0, -1e9, -0.5});
  expect_equal(read_mask(additive, MaskMeans::kAdditive), first_and_last);
  expect_equal(read_mask(additive, MaskMeans::kAuto), first_and_last);
  // No bool or integer is added to scores.
  expect_equal(read_mask(mask, MaskMeans::kAdditive), first_and_last);
}

TEST(ReadMask, AnAdditiveMaskOfZerosDropsNothing) {
  for (const auto means : {hooks::MaskMeans::kAuto, hooks::MaskMeans::kAdditive}) {
    EXPECT_TRUE(read_mask(at::zeros({2, 3}), means).all().item<bool>());
  }
  EXPECT_FALSE(read_mask(at::zeros({2, 3}), hooks::MaskMeans::kValid).any().item<bool>());
  EXPECT_FALSE(read_mask(at::zeros({2, 3}, at::kLong), hooks::MaskMeans::kAuto).any().item<bool>());
}

}  // namespace
}  // namespace moetap::plugin
