#include "plugin/journal/logged_router.h"

#include <gtest/gtest.h>

#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

constexpr size_t kLayer = 3;

void expect_same(const analysis::RouterSums& a, const analysis::RouterSums& b) {
  EXPECT_EQ(a.num_experts, b.num_experts);
  EXPECT_EQ(a.top_k, b.top_k);
  EXPECT_EQ(a.num_rows, b.num_rows);
  EXPECT_EQ(a.has_pairs, b.has_pairs);
  EXPECT_TRUE(at::equal(a.words, b.words));
}

std::vector<int32_t> ids_of(const at::Tensor& selected) {
  const at::Tensor ids = selected.to(at::kInt).contiguous();
  return {ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + ids.numel()};
}

TEST(LoggedRouter, EachSampleGetsItsRowAndItsTokens) {
  const at::Tensor valid = at::tensor({1, 1, 1, 1, 1, 0}).reshape({2, 3}).to(at::kBool);
  const RouterRecord router = observe_router({}, seeded_logits(1, {2, 3, 4}), valid);
  const SplitRouter split = split_router(router, kLayer, 2, PartsAre::kSamples, /*per_token=*/true);
  EXPECT_TRUE(split.shared.empty());
  ASSERT_EQ(split.parts.size(), 2u);
  for (int64_t row = 0; row < 2; ++row) {
    const LoggedRouter& part = split.parts[static_cast<size_t>(row)];
    EXPECT_EQ(part.layer, kLayer);
    expect_same(part.sums, select_row(router.sums, row));
    EXPECT_EQ(part.selected, ids_of(router.selected.narrow(0, 3 * row, 3 - row)));
    ASSERT_EQ(part.margins.size(), static_cast<size_t>(3 - row));
    EXPECT_EQ(part.margins[1], (router.weights[3 * row + 1][0] - router.weights[3 * row + 1][1]).item<float>());
  }
}

TEST(LoggedRouter, AForwardAsOneEntryKeepsItsRows) {
  const RouterRecord router = observe_router({}, seeded_logits(2, {2, 3, 4}));
  const SplitRouter split = split_router(router, kLayer, 1, PartsAre::kForwards, /*per_token=*/true);
  ASSERT_EQ(split.parts.size(), 1u);
  EXPECT_EQ(split.parts[0].sums.num_rows, 2);
  EXPECT_FALSE(split.parts[0].sums.has_pairs);
  EXPECT_EQ(split.parts[0].selected, ids_of(router.selected));
  EXPECT_EQ(split.parts[0].margins.size(), 3u);  // those of the first sample only
}

TEST(LoggedRouter, TokensThatCannotBeToldApartAreShared) {
  const RouterRecord router = observe_router({.attributed = false}, seeded_logits(3, {1, 5, 4}));
  const SplitRouter split = split_router(router, kLayer, 2, PartsAre::kSamples, /*per_token=*/true);
  EXPECT_TRUE(split.parts.empty());
  ASSERT_EQ(split.shared.size(), 1u);
  EXPECT_EQ(split.shared[0].sums.tokens(), 5);
  EXPECT_EQ(split.shared[0].selected, ids_of(router.selected));
  EXPECT_EQ(split_router(router, kLayer, 1, PartsAre::kSamples, true).parts.size(), 1u);
}

TEST(LoggedRouter, WithoutListsByTokenTheSumsStay) {
  const RouterRecord router = observe_router({}, seeded_logits(4, {2, 3, 4}));
  for (const LoggedRouter& part : split_router(router, kLayer, 2, PartsAre::kSamples, /*per_token=*/false).parts) {
    EXPECT_TRUE(part.selected.empty());
    EXPECT_TRUE(part.margins.empty());
    EXPECT_EQ(part.sums.tokens(), 3);
  }
}

TEST(LoggedRouter, SumsOfOtherSlotsAndRowsAreAdded) {
  const RouterRecord one_slot = observe_router({.top_k = 1}, seeded_logits(5, {1, 3, 4}));
  const RouterRecord two_slots = observe_router({.top_k = 2}, seeded_logits(6, {2, 3, 4}));
  analysis::RouterSums sums = one_slot.sums;
  add_sums(sums, two_slots.sums);
  EXPECT_EQ(sums.top_k, 2);
  EXPECT_EQ(sums.num_rows, 1);
  EXPECT_TRUE(sums.has_pairs);
  EXPECT_EQ(sums.tokens(), 9);
  analysis::RouterSums other_way = two_slots.sums;
  add_sums(other_way, one_slot.sums);
  expect_same(sums, other_way);
}

TEST(LoggedRouter, MarginsOfSomeTokensOnlyAreDropped) {
  LoggedRouter with;
  with.sums = analysis::empty_router_sums(4, 2, 1);
  with.selected = {0, 1};
  with.margins = {0.5F};
  LoggedRouter without = with;
  without.margins.clear();
  LoggedRouter all = with;
  add_call(all, with);
  EXPECT_EQ(all.margins, (std::vector<float>{0.5F, 0.5F}));
  add_call(all, without);
  add_call(all, with);
  EXPECT_TRUE(all.margins.empty());
  EXPECT_EQ(all.selected.size(), 8u);
}

TEST(LoggedRouter, TheJournalGivesBackWhatItTook) {
  const RouterRecord router = observe_router({}, seeded_logits(7, {2, 3, 4}));
  const std::vector<LoggedRouter> parts = split_router(router, kLayer, 2, PartsAre::kSamples, true).parts;
  const std::vector<RouterTotal> totals = {{kLayer, sum_rows(router.sums)}};
  ByteWriter writer;
  encode(writer, parts);
  encode(writer, totals);
  const std::string bytes = writer.take();
  ByteReader reader(bytes);
  const auto parts_read = decode_logged_routers(reader);
  const auto totals_read = decode_router_totals(reader);
  EXPECT_TRUE(reader.at_end());
  ASSERT_EQ(parts_read.size(), 2u);
  expect_same(parts_read[1].sums, parts[1].sums);
  EXPECT_EQ(parts_read[1].selected, parts[1].selected);
  EXPECT_EQ(parts_read[1].margins, parts[1].margins);
  ASSERT_EQ(totals_read.size(), 1u);
  expect_same(totals_read[0].sums, totals[0].sums);
}

TEST(LoggedRouter, PairsAndPartsMakeTheTotals) {
  // Two layers; one of them has one slot and so no pairs.
  const RouterRecord two_slots = observe_router({}, seeded_logits(8, {3, 3, 4}));
  const RouterRecord one_slot = observe_router({.top_k = 1}, seeded_logits(9, {3, 3, 4}));
  std::vector<std::vector<LoggedRouter>> parts(3);
  for (size_t i = 0; i < 3; ++i) {
    parts[i] = {split_router(two_slots, 0, 3, PartsAre::kSamples, false).parts[i],
                split_router(one_slot, 1, 3, PartsAre::kSamples, false).parts[i]};
  }
  const std::vector<RouterTotal> totals = {{0, sum_rows(two_slots.sums)}, {1, sum_rows(one_slot.sums)}};
  ByteWriter writer;
  encode_pairs(writer, totals);
  const std::string bytes = writer.take();
  ByteReader reader(bytes);
  auto read = decode_pairs(reader);
  complete_totals(read, {&parts[0], &parts[1], &parts[2]});
  ASSERT_EQ(read.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(read[i].layer, i);
    expect_same(read[i].sums, totals[i].sums);
  }
  ByteReader again(bytes);
  auto lacking = decode_pairs(again);
  const std::vector<LoggedRouter> only_one = {parts[0][0]};
  EXPECT_THROW(complete_totals(lacking, {&only_one}), std::runtime_error);
}

}  // namespace
}  // namespace moetap::plugin
