#include "plugin/journal/logged_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "plugin/journal/logged_forward.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/synthetic_attention.h"
#include "tests/plugin/support/tensors.h"

namespace moetap::plugin {
namespace {

using analysis::AttentionSums;

void expect_same(const AttentionSums& a, const AttentionSums& b) {
  EXPECT_EQ(a.num_heads, b.num_heads);
  EXPECT_EQ(a.num_regions, b.num_regions);
  EXPECT_EQ(a.num_experts, b.num_experts);
  EXPECT_EQ(a.num_rows, b.num_rows);
  EXPECT_EQ(a.self, b.self);
  EXPECT_EQ(a.has_shared, b.has_shared);
  expect_equal(a.words, b.words);
}

constexpr int64_t kBatch = 3;

AttentionRecord record(bool attributed = true, int64_t seed = 1, int64_t call = 0) {
  return observe_attention({.hook = 0, .attributed = attributed, .call = call}, seeded_probabilities(seed, kBatch, 4));
}

TEST(LoggedAttentionTest, EachSampleGetsItsRow) {
  const AttentionRecord attention = record();
  const SplitAttention split = split_attention(attention, 7, kBatch, PartsAre::kSamples);
  ASSERT_EQ(split.parts.size(), size_t{kBatch});
  EXPECT_TRUE(split.shared.empty());
  for (int64_t i = 0; i < kBatch; ++i) {
    const LoggedAttention& part = split.parts[static_cast<size_t>(i)];
    EXPECT_EQ(part.layer, 7u);
    EXPECT_FALSE(part.sums.has_shared);
    const AttentionRecord alone = observe_attention({}, seeded_probabilities(1, kBatch, 4).narrow(0, i, 1));
    expect_same(part.sums, select_row(alone.sums, 0));
  }
}

TEST(LoggedAttentionTest, WhatIsNotAttributedBelongsToEverySample) {
  const AttentionSums whole = select_row(sum_rows(record().sums), 0);
  const SplitAttention split = split_attention(record(false), 7, kBatch, PartsAre::kSamples);
  EXPECT_TRUE(split.parts.empty());
  ASSERT_EQ(split.shared.size(), 1u);
  expect_same(split.shared[0].sums, whole);

  const SplitAttention by_forward = split_attention(record(), 7, 1, PartsAre::kForwards);
  EXPECT_TRUE(by_forward.shared.empty());
  ASSERT_EQ(by_forward.parts.size(), 1u);
  expect_same(by_forward.parts[0].sums, whole);

  const AttentionRecord one = observe_attention({.attributed = false}, seeded_probabilities(1, 1, 4));
  const SplitAttention of_one = split_attention(one, 7, 1, PartsAre::kSamples);
  EXPECT_TRUE(of_one.shared.empty()) << "a forward of one sample";
  EXPECT_EQ(of_one.parts.size(), 1u);
}

TEST(LoggedAttentionTest, CallsOfALoopAreAddedUp) {
  std::vector<AttentionTotal> totals;
  add_attention(totals, AttentionTotal{2, 1, sum_rows(record().sums)});
  add_attention(totals, AttentionTotal{3, 1, sum_rows(record().sums)});
  add_attention(totals, AttentionTotal{2, 1, sum_rows(record(true, 2).sums)});
  ASSERT_EQ(totals.size(), 2u);
  EXPECT_EQ(totals[0].sums.counter(analysis::kMeasuredRows), 2 * 4 * kBatch);
  AttentionSums both = sum_rows(record().sums);
  merge(both, sum_rows(record(true, 2).sums));
  expect_same(totals[0].sums, both);
  expect_same(totals[1].sums, sum_rows(record().sums));

  std::vector<ExpertAttentionTotal> experts;
  const RouterRecord router = observe_router({}, seeded_logits(1, {kBatch, 4, 4}));
  const AttentionRecord with_router = observe_attention({}, seeded_probabilities(1, kBatch, 4), &router);
  for (const auto& [layer, place] : {std::pair(0, 1), std::pair(0, 2), std::pair(1, 1), std::pair(0, 1)}) {
    add_attention(experts, ExpertAttentionTotal{static_cast<size_t>(layer), static_cast<size_t>(place),
                                                with_router.experts[0].sums});
  }
  ASSERT_EQ(experts.size(), 3u) << "a layer and a router have one sum";
  AttentionSums twice = with_router.experts[0].sums;
  merge(twice, with_router.experts[0].sums);
  expect_same(experts[0].sums, twice);
}

TEST(LoggedAttentionTest, IsReadBackToTheLastBit) {
  const RouterRecord router = observe_router({}, seeded_logits(1, {kBatch, 4, 4}));
  const AttentionRecord attention = observe_attention({}, seeded_probabilities(1, kBatch, 4), &router);
  const std::vector<LoggedAttention> parts = split_attention(attention, 7, kBatch, PartsAre::kSamples).parts;
  const std::vector<AttentionTotal> totals = {{5, 3, sum_rows(attention.sums)}};
  const std::vector<ExpertAttentionTotal> experts = {{5, 9, attention.experts[0].sums}};
  ByteWriter bytes;
  encode(bytes, parts);
  encode(bytes, totals);
  encode(bytes, experts);
  const std::string encoded = bytes.take();
  ByteReader reader(encoded);
  const auto parts_again = decode_logged_attention(reader);
  const auto totals_again = decode_attention_totals(reader);
  const auto experts_again = decode_expert_attention(reader);
  EXPECT_TRUE(reader.at_end());
  ASSERT_EQ(parts_again.size(), parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_EQ(parts_again[i].layer, 7u);
    expect_same(parts_again[i].sums, parts[i].sums);
  }
  ASSERT_EQ(totals_again.size(), 1u);
  EXPECT_EQ(totals_again[0].layer, 5u);
  EXPECT_EQ(totals_again[0].num_key_heads, 3);
  expect_same(totals_again[0].sums, totals[0].sums);
  ASSERT_EQ(experts_again.size(), 1u);
  EXPECT_EQ(experts_again[0].layer, 5u);
  EXPECT_EQ(experts_again[0].router, 9u);
  expect_same(experts_again[0].sums, experts[0].sums);
  // Sums that were read back are added to as others.
  AttentionSums twice = totals_again[0].sums;
  merge(twice, totals[0].sums);
  EXPECT_EQ(twice.counter(analysis::kMeasuredRows), 2 * 4 * kBatch);

  for (size_t end = 0; end < encoded.size(); end += 17) {
    ByteReader cut(std::string_view(encoded).substr(0, end));
    EXPECT_THROW(
        {
          decode_logged_attention(cut);
          decode_attention_totals(cut);
          decode_expert_attention(cut);
        },
        std::runtime_error)
        << end;
  }
}

TEST(LoggedAttentionTest, SumsOfAWrongSizeAreRefused) {
  AttentionSums sums = sum_rows(record().sums);
  sums.words = sums.words.narrow(0, 0, sums.words.numel() - 1);
  ByteWriter bytes;
  encode(bytes, std::vector<AttentionTotal>{{0, 1, sums}});
  const std::string encoded = bytes.take();
  EXPECT_EQ(error_of([&] {
              ByteReader reader(encoded);
              decode_attention_totals(reader);
            }),
            "a frame of the journal holds sums of attention of a wrong size");
}

TEST(LoggedAttentionTest, AForwardsPartsAndSummaryHoldIt) {
  auto model = describe({{"language_model", "0"}});
  add_attention_hooks(*model, {{"language_model", "0"}, {"language_model", "1"}});
  LayerTable routers, layers(hooks::HookKind::kAttention);
  routers.place(*model, 0, 4);
  layers.place(*model, 2, 0);  // reported first
  layers.place(*model, 1, 0);
  ForwardRecord forward = forward_of(model, {4, 5, 6});
  forward.routers = {observe_router({}, seeded_logits(1, {kBatch, 4, 4}))};
  forward.attention = {
      observe_attention({.hook = 1}, seeded_probabilities(1, kBatch, 4), &forward.routers[0]),
      observe_attention({.hook = 2, .attributed = false}, seeded_probabilities(2, kBatch, 4)),
      observe_attention({.hook = 1, .call = 1}, seeded_probabilities(3, kBatch, 4), &forward.routers[0])};
  const LoggedForward logged = log_forward(forward, {routers, layers}, {});
  ASSERT_EQ(logged.parts.size(), 3u);
  for (const LogPart& part : logged.parts) {
    ASSERT_EQ(part.attention.size(), 1u);
    EXPECT_EQ(part.attention[0].layer, 1u);
    EXPECT_EQ(part.attention[0].sums.counter(analysis::kMeasuredRows), 8);
  }
  ASSERT_EQ(logged.shared.attention.size(), 1u);
  EXPECT_EQ(logged.shared.attention[0].layer, 0u);
  ASSERT_EQ(logged.summary.attention.size(), 2u);
  EXPECT_EQ(logged.summary.attention[0].sums.counter(analysis::kMeasuredRows), 8 * kBatch);
  ASSERT_EQ(logged.summary.attention_of_experts.size(), 1u);
  EXPECT_EQ(logged.summary.attention_of_experts[0].layer, 1u);
  EXPECT_EQ(logged.summary.attention_of_experts[0].router, 0u);

  const LogPart part = decode_log_part(encode(logged.parts[1]));
  ASSERT_EQ(part.attention.size(), 1u);
  expect_same(part.attention[0].sums, logged.parts[1].attention[0].sums);
  const SummaryPart summary = decode_summary_part(encode(logged.summary), logged.shared, logged.parts);
  ASSERT_EQ(summary.attention.size(), 2u);
  ASSERT_EQ(summary.attention_of_experts.size(), 1u);
  for (size_t i = 0; i < 2; ++i) expect_same(summary.attention[i].sums, logged.summary.attention[i].sums);
  expect_same(summary.attention_of_experts[0].sums, logged.summary.attention_of_experts[0].sums);
}

}  // namespace
}  // namespace moetap::plugin
