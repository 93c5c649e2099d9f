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

ExpertAttentionTotal total_of(const ExpertAttentionRecord& experts) {
  ExpertAttentionTotal total{5, 9, experts.sums};
  if (!experts.sums.defined()) total.rows = {experts.rows};
  return total;
}

AttentionSums whole(ExpertAttentionTotal total) {
  total.add_waiting();
  EXPECT_TRUE(total.rows.empty());
  return total.sums;
}

TEST(LoggedAttentionTest, RowsOfExpertsAreReadBackToTheLastBit) {
  const RouterRecord router = observe_router({}, seeded_logits(1, {kBatch, 4, 4}));
  const at::Tensor probabilities = seeded_probabilities(1, kBatch, 4);
  const AttentionSums expected = observe_attention({}, probabilities, &router).experts[0].sums;
  AttentionRecord attention = observe_attention({.as_rows = true}, probabilities, &router);
  for (const bool sampled : {false, true}) {
    if (sampled) attention.experts[0].rows.weight.fill_(1.75);
    for (const bool weighted : {true, false}) {
      if (!weighted) attention.experts[0].rows.weights = at::Tensor();
      const ExpertAttentionTotal total = total_of(attention.experts[0]);
      if (!sampled && weighted) expect_same(whole(total), expected);
      ByteWriter bytes;
      encode(bytes, std::vector<ExpertAttentionTotal>{total});
      const std::string encoded = bytes.take();
      ByteReader reader(encoded);
      const auto again = decode_expert_attention(reader);
      EXPECT_TRUE(reader.at_end());
      ASSERT_EQ(again.size(), 1u);
      ASSERT_EQ(again[0].rows.size(), 1u);
      EXPECT_EQ(again[0].num_waiting(), 4 * kBatch);
      expect_same(whole(again[0]), whole(total));
      for (size_t end = 0; end < encoded.size(); ++end) {
        ByteReader cut(std::string_view(encoded).substr(0, end));
        EXPECT_THROW(decode_expert_attention(cut), std::runtime_error) << end;
      }
    }
  }
}

TEST(LoggedAttentionTest, SumsAndRowsOfOneLayerAreAddedUp) {
  const RouterRecord router = observe_router({}, seeded_logits(1, {kBatch, 4, 4}));
  const at::Tensor probabilities = seeded_probabilities(1, kBatch, 4);
  const auto as_sums = total_of(observe_attention({}, probabilities, &router).experts[0]);
  const auto as_rows = total_of(observe_attention({.as_rows = true}, probabilities, &router).experts[0]);
  AttentionSums expected = as_sums.sums;
  for (int i = 0; i < 2; ++i) merge(expected, as_sums.sums);
  for (const auto& order : {std::vector{as_sums, as_rows, as_rows}, std::vector{as_rows, as_rows, as_sums}}) {
    std::vector<ExpertAttentionTotal> all;
    for (const ExpertAttentionTotal& one : order) add_attention(all, one);
    ASSERT_EQ(all.size(), 1u);
    expect_same(whole(all[0]), expected);
  }
}

TEST(LoggedAttentionTest, RowsThatDoNotFitAreRefused) {
  const RouterRecord router = observe_router({}, seeded_logits(1, {kBatch, 4, 4}));
  const AttentionRecord attention = observe_attention({.as_rows = true}, seeded_probabilities(1, kBatch, 4), &router);
  const analysis::ExpertRows& rows = attention.experts[0].rows;
  const auto expect_refused = [](const analysis::ExpertRows& wrong) {
    ByteWriter bytes;
    ExpertAttentionTotal total;
    total.rows.push_back(wrong);
    encode(bytes, std::vector<ExpertAttentionTotal>{total});
    const std::string encoded = bytes.take();
    EXPECT_EQ(error_of([&] {
                ByteReader reader(encoded);
                decode_expert_attention(reader);
              }),
              "a frame of the journal holds rows of attention that do not fit");
  };
  for (const auto& [member, value] : {std::pair(&analysis::ExpertRows::region, kAttentionRegions),
                                      std::pair(&analysis::ExpertRows::position, int64_t{-1}),
                                      std::pair(&analysis::ExpertRows::num_keys, int64_t{0})}) {
    analysis::ExpertRows wrong = rows;
    wrong.*member = (rows.*member).clone();
    (wrong.*member)[1] = value;
    expect_refused(wrong);
  }
  analysis::ExpertRows no_experts = rows;
  no_experts.num_experts = 0;
  expect_refused(no_experts);
}

TEST(LoggedAttentionTest, AStepOfGenerationTakesFewBytes) {
  constexpr int64_t kExperts = 64, kTopK = 8;
  at::manual_seed(8);
  const RouterRecord router = observe_router({.top_k = kTopK}, seeded_logits(1, {1, 1, kExperts}));
  analysis::AttentionCall call;
  call.probabilities = at::randn({1, 8, 1, 1024}).softmax(-1);
  call.scores = call.probabilities.log();
  analysis::AttentionTokens tokens;
  tokens.key_position = at::arange(1024, at::kInt).unsqueeze(0);
  tokens.query_position = tokens.key_position.narrow(1, 1023, 1).contiguous();
  const analysis::AttentionRows rows = analysis::measure_attention(call, tokens);
  AttentionRecord record;
  record.sums = analysis::empty_attention_sums(8, rows.num_regions, rows.self, 0, 1);
  add_rows(record.sums, rows, at::zeros({1}, at::kLong));
  ExpertAttentionTotal experts;
  experts.rows.push_back(
      analysis::expert_rows(rows, kExperts, at::zeros({1}, at::kLong), router.selected, router.weights));
  ByteWriter bytes;
  encode(bytes, split_attention(record, 0, 1, PartsAre::kSamples).parts);
  encode_shared(bytes, {{0, 8, sum_rows(record.sums)}});
  const size_t of_layer = bytes.take().size();
  encode(bytes, std::vector<ExpertAttentionTotal>{experts});
  const size_t of_experts = bytes.take().size();
  RecordProperty("bytes_of_layer", static_cast<int>(of_layer));
  RecordProperty("bytes_of_experts", static_cast<int>(of_experts));
  EXPECT_LE(of_experts, 200u);
  EXPECT_LE(of_layer + of_experts, 1024u) << of_layer << " + " << of_experts;
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
  forward.attention = {observe_attention({.hook = 1}, seeded_probabilities(1, kBatch, 4), &forward.routers[0]),
                       observe_attention({.hook = 2, .attributed = false}, seeded_probabilities(2, kBatch, 4)),
                       observe_attention({.hook = 1, .call = 1, .as_rows = true}, seeded_probabilities(3, kBatch, 4),
                                         &forward.routers[0])};
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
  EXPECT_EQ(logged.summary.attention_of_experts[0].num_waiting(), 4 * kBatch);
  expect_same(whole(summary.attention_of_experts[0]), whole(logged.summary.attention_of_experts[0]));
}

}  // namespace
}  // namespace moetap::plugin
