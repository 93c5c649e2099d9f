#include "plugin/capture/attention_pending.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "analysis/attention/attention_metrics.h"
#include "plugin/capture/hook_checks.h"
#include "plugin/capture/host_copies.h"
#include "tests/plugin/support/synthetic_attention.h"
#include "tests/plugin/support/tensors.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kBatch = 2, kLength = 3, kExperts = 4, kMostHooks = 5;

struct Hook {
  char kind;  // 'a' attention, 'r' router
  std::string layer;
  std::string component = "language_model";
};

std::shared_ptr<const ModelDescription> model_of(const std::vector<Hook>& hooks) {
  auto model = std::make_shared<ModelDescription>();
  for (const Hook& one : hooks) {
    hooks::HookPoint hook;
    hook.id = static_cast<int64_t>(model->hooks.size());
    hook.kind = one.kind == 'a' ? hooks::HookKind::kAttention : hooks::HookKind::kRouter;
    hook.layer = one.layer;
    hook.component = one.component;
    model->hooks.push_back(hook);
  }
  return model;
}

/// The tokens of a text [kBatch, kLength] in the order b, q.
std::shared_ptr<const TokenGroup> text_tokens(int64_t length = kLength) {
  auto group = std::make_shared<TokenGroup>();
  group->num_tokens = kBatch * length;
  Attribution& attribution = group->attribution;
  attribution.num_rows = kBatch;
  attribution.row_step = length;
  attribution.position = PositionOf::kSequence;
  attribution.num_positions = length;
  return group;
}

struct Call {
  int64_t hook = 0, call = 0;
  at::Tensor valid = at::ones({kBatch, kLength}, at::kBool);
  int64_t seed = 1;
};

MeasuredAttention measured(const Call& call, bool matrix = false) {
  analysis::AttentionCall values;
  values.probabilities = seeded_probabilities(call.seed, kBatch, call.valid.size(1));
  analysis::AttentionTokens tokens;
  tokens.query_position = tokens.key_position =
      call.valid.to(at::kInt).cumsum(1, at::kInt).sub(1).masked_fill(call.valid.logical_not(), -1).to(at::kInt);
  tokens.num_regions = kAttentionRegions;
  MeasuredAttention attention;
  attention.hook = call.hook;
  attention.call = call.call;
  attention.tokens = text_tokens(call.valid.size(1));
  attention.rows = analysis::measure_attention(values, tokens, {matrix});
  if (matrix) attention.key_position = tokens.key_position;
  attention.num_key_heads = 2;
  return attention;
}

/// What a router reports that sees the valid tokens; each goes to one expert: its place among them, modulo kExperts.
RouterRecord router(int64_t hook, const at::Tensor& valid = at::ones({kBatch, kLength}, at::kBool), int64_t call = 0) {
  const at::Tensor keep = valid.flatten().nonzero().squeeze(1);
  RouterRecord record;
  record.hook = hook;
  record.call = call;
  record.sums.num_experts = kExperts;
  record.selected = at::arange(keep.numel(), at::kLong).remainder(kExperts).unsqueeze(1);
  record.weights = at::ones({keep.numel(), 1});
  record.row = at::floor_divide(keep, valid.size(1));
  record.position = at::remainder(keep, valid.size(1)).to(at::kInt);
  return record;
}

std::shared_ptr<HookChecks> checks() {
  return std::make_shared<HookChecks>(kMostHooks);
}

ForwardRecord finish(PendingAttention& pending, std::vector<RouterRecord> routers = {}) {
  ForwardRecord record;
  record.samples = {10, 11};
  record.routers = std::move(routers);
  HostCopies copies;
  pending.prepare(copies);
  pending.finish(record);
  return record;
}

/// "ATTENTION HOOK.CALL: ROUTER HOOK ...", for each call with routers.
std::vector<std::string> pairs(const ForwardRecord& record) {
  std::vector<std::string> found;
  for (const AttentionRecord& attention : record.attention) {
    std::string text = fmt::format("{}.{}:", attention.hook, attention.call);
    for (const ExpertAttentionRecord& experts : attention.experts) text += fmt::format(" {}", experts.router_hook);
    if (!attention.experts.empty()) found.push_back(text);
  }
  return found;
}

using Pairs = std::vector<std::string>;

TEST(PendingAttentionTest, CallsStandInTheOrderOfHooksAndCalls) {
  PendingAttention pending(model_of({{'a', "0"}, {'a', "1"}}), checks(), false);
  EXPECT_TRUE(pending.empty());
  for (const Call& call : {Call{1, 1}, Call{0, 0}, Call{1, 0}, Call{0, 1}}) pending.add(measured(call));
  EXPECT_FALSE(pending.empty());
  const ForwardRecord record = finish(pending);
  ASSERT_EQ(record.attention.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(record.attention[i].hook, static_cast<int64_t>(i / 2));
    EXPECT_EQ(record.attention[i].call, static_cast<int64_t>(i % 2));
  }
  EXPECT_TRUE(pending.empty()) << "it keeps no tensor";
}

TEST(PendingAttentionTest, ARouterGoesWithTheAttentionOfItsLayer) {
  PendingAttention pending(model_of({{'a', "0"}, {'r', "0"}, {'a', "1"}, {'r', "1"}, {'r', "1"}}), checks(), false);
  for (const int64_t hook : {0, 2}) pending.add(measured({hook}));
  EXPECT_EQ(pairs(finish(pending, {router(1), router(3), router(4)})), (Pairs{"0.0: 1", "2.0: 3 4"}));
}

TEST(PendingAttentionTest, ARouterOfALayerWithoutAttentionGoesWithTheLastBeforeIt) {
  PendingAttention pending(model_of({{'a', "0"}, {'a', "1"}, {'a', "1", "vision_tower"}, {'r', "2"}, {'a', "3"}}),
                           checks(), false);
  for (const int64_t hook : {0, 1, 2, 4}) pending.add(measured({hook}));
  EXPECT_EQ(pairs(finish(pending, {router(3)})), (Pairs{"1.0: 3"}));
}

TEST(PendingAttentionTest, ARouterBeforeAllAttentionHasNone) {
  PendingAttention pending(model_of({{'r', "0"}, {'a', "0"}}), checks(), false);
  pending.add(measured({1}));
  EXPECT_EQ(pairs(finish(pending, {router(0)})), Pairs{});
}

TEST(PendingAttentionTest, AttentionOfOtherTokensIsPassedOver) {
  // Layer 1 attends over fewer tokens than its router sees, layer 0 over the same.
  PendingAttention pending(model_of({{'a', "0"}, {'a', "1"}, {'r', "1"}}), checks(), false);
  pending.add(measured({0}));
  Call fewer{1};
  fewer.valid = bools({1, 1, 0, 1, 1, 1}, {kBatch, kLength});
  pending.add(measured(fewer));
  EXPECT_EQ(pairs(finish(pending, {router(2)})), (Pairs{"0.0: 2"}));

  PendingAttention none(model_of({{'a', "1"}, {'r', "1"}}), checks(), false);
  fewer.hook = 0;
  none.add(measured(fewer));
  // As many tokens, but others.
  EXPECT_EQ(pairs(finish(none, {router(1, bools({0, 1, 1, 1, 1, 1}, {kBatch, kLength}))})), Pairs{});
}

TEST(PendingAttentionTest, InALoopARouterGoesWithTheCallOfItsTurn) {
  PendingAttention pending(model_of({{'a', "0"}, {'a', "1"}, {'r', "1"}}), checks(), false);
  for (const Call& call : {Call{0, 0}, Call{1, 0}, Call{1, 1}}) pending.add(measured(call));
  const at::Tensor all = at::ones({kBatch, kLength}, at::kBool);
  EXPECT_EQ(pairs(finish(pending, {router(2, all, 0), router(2, all, 1)})), (Pairs{"1.0: 2", "1.1: 2"}));

  // An attention before the loop: every turn goes with its only call.
  PendingAttention before(model_of({{'a', "0"}, {'r', "0"}}), checks(), false);
  before.add(measured({0, 0}));
  EXPECT_EQ(pairs(finish(before, {router(1, all, 0), router(1, all, 1)})), (Pairs{"0.0: 1 1"}));
}

TEST(PendingAttentionTest, ExpertsGetWhatTheirOwnTokensAttendTo) {
  const at::Tensor valid = bools({0, 1, 1, 1, 1, 0}, {kBatch, kLength});
  Call call{0};
  call.valid = valid;
  MeasuredAttention attention = measured(call);
  const analysis::AttentionRows rows = attention.rows;
  PendingAttention pending(model_of({{'a', "0"}, {'r', "0"}}), checks(), false);
  pending.add(std::move(attention));
  RouterRecord of_valid = router(1, valid);
  of_valid.weights = at::tensor({0.5f, 1.0f, 2.0f, 4.0f}).unsqueeze(1);
  // In another order than the lines, as a router that sees the sequence first.
  const at::Tensor order = longs({2, 0, 3, 1});
  for (at::Tensor* column : {&of_valid.selected, &of_valid.weights, &of_valid.row, &of_valid.position}) {
    *column = column->index_select(0, order);
  }
  const ForwardRecord record = finish(pending, {of_valid});
  const ExpertAttentionRecord& experts = record.attention.at(0).experts.at(0);
  EXPECT_FALSE(experts.sums.defined()) << "of few tokens the rows are recorded";
  analysis::AttentionSums sums;
  add_experts(sums, experts.rows);
  const auto metrics = finalize_experts(sums);
  const at::Tensor distance = rows.values.select(1, analysis::kDistance).index_select(0, longs({1, 2, 3, 4}));
  for (int64_t expert = 0; expert < kExperts; ++expert) {
    EXPECT_NEAR(metrics.gate_mass[static_cast<size_t>(expert)], std::pow(2.0, static_cast<double>(expert) - 1), 1e-9);
    EXPECT_NEAR(metrics.mean_distance[static_cast<size_t>(expert)].value(), distance[expert].item<double>(), 1e-6);
  }
  EXPECT_EQ(metrics.unassigned_slots, 0);
}

TEST(PendingAttentionTest, WhereTokensMayNotBeToldFewAreSummedUpToo) {
  const at::Tensor valid = at::ones({kBatch, kLength}, at::kBool);
  Call call{0};
  call.valid = valid;
  const auto model = model_of({{'a', "0"}, {'r', "0"}});
  PendingAttention as_rows(model, checks(), false), as_sums(model, checks(), false, PendingAttention::ByExpert::kSums);
  as_rows.add(measured(call));
  as_sums.add(measured(call));
  const ExpertAttentionRecord rows = finish(as_rows, {router(1, valid)}).attention.at(0).experts.at(0);
  const ExpertAttentionRecord sums = finish(as_sums, {router(1, valid)}).attention.at(0).experts.at(0);
  EXPECT_EQ(sums.rows.num_rows(), 0);
  analysis::AttentionSums expected;
  add_experts(expected, rows.rows);
  EXPECT_EQ(finalize_experts(sums.sums).gate_mass, finalize_experts(expected).gate_mass);
}

TEST(PendingAttentionTest, ManyTokensAreSummedUpInTheForwardsRecord) {
  const at::Tensor valid = at::ones({kBatch, 512}, at::kBool);
  Call call{0};
  call.valid = valid;
  PendingAttention pending(model_of({{'a', "0"}, {'r', "0"}}), checks(), false);
  pending.add(measured(call));
  const RouterRecord of_all = router(1, valid);
  const analysis::AttentionRows rows = measured(call).rows;
  const ForwardRecord record = finish(pending, {of_all});
  const ExpertAttentionRecord& experts = record.attention.at(0).experts.at(0);
  EXPECT_EQ(experts.rows.num_rows(), 0);
  analysis::AttentionSums expected;
  add_experts(expected, analysis::expert_rows(rows, kExperts, at::arange(rows.num_lines(), at::kLong), of_all.selected,
                                              of_all.weights));
  ASSERT_TRUE(experts.sums.defined());
  expect_equal(experts.sums.words, expected.words);
}

TEST(PendingAttentionTest, MatricesAndValuesAreWithoutPadding) {
  Call call{0};
  call.valid = bools({0, 1, 1, 1, 1, 0}, {kBatch, kLength});
  MeasuredAttention attention = measured(call, /*matrix=*/true);
  const at::Tensor whole = attention.rows.matrix.clone(), values = attention.rows.values.clone();
  PendingAttention pending(model_of({{'a', "0"}}), checks(), /*keep_values=*/true);
  pending.add(std::move(attention));
  const ForwardRecord finished = finish(pending);
  const AttentionRecord& record = finished.attention.at(0);
  ASSERT_EQ(record.matrices.size(), 2u);
  for (int64_t sample = 0; sample < kBatch; ++sample) {
    const auto& matrix = record.matrices[static_cast<size_t>(sample)];
    EXPECT_EQ(matrix.sample, sample);
    EXPECT_EQ(matrix.first_position, 0);
    const int64_t begin = sample == 0 ? 1 : 0;
    expect_equal(matrix.probabilities, whole[sample].narrow(0, begin, 2).narrow(1, begin, 2).contiguous());
  }
  ASSERT_EQ(record.values.size(0), 4);
  expect_equal(record.values.select(1, 0).contiguous(), values.select(1, 0).index_select(0, longs({1, 2, 3, 4})));
  expect_equal(record.row, longs({0, 0, 1, 1}));
  expect_equal(record.position, longs({1, 2, 0, 1}).to(at::kInt));
}

TEST(PendingAttentionTest, WhatCannotBeToldApartBySampleIsSummedUp) {
  MeasuredAttention attention = measured({0}, /*matrix=*/true);
  auto tokens = std::make_shared<TokenGroup>(*attention.tokens);
  tokens->attribution = {};
  tokens->attribution.attributed = false;
  attention.tokens = tokens;
  PendingAttention pending(model_of({{'a', "0"}}), checks(), false);
  pending.add(std::move(attention));
  const ForwardRecord record = finish(pending);
  EXPECT_FALSE(record.attention.at(0).attributed);
  EXPECT_EQ(record.attention[0].sums.num_rows, 1);
  EXPECT_EQ(record.attention[0].sums.counter(analysis::kMeasuredRows), kBatch * kLength);
  ASSERT_EQ(record.attention[0].matrices.size(), 2u);
  EXPECT_EQ(record.attention[0].matrices[1].sample, -1);
  EXPECT_EQ(record.attention[0].matrices[1].sequence, 1);
}

TEST(PendingAttentionTest, TensorsAreAllThatTheCallsHold) {
  PendingAttention pending(model_of({{'a', "0"}}), checks(), false);
  pending.add(measured({0}, /*matrix=*/true));
  int64_t bytes = 0;
  const MeasuredAttention same = measured({0}, /*matrix=*/true);
  const analysis::AttentionRows& rows = same.rows;
  for (const at::Tensor& tensor :
       {rows.line, rows.values, rows.bins, rows.region, rows.position, rows.num_keys, rows.length, rows.weight,
        rows.head_high, rows.head_low, rows.head_max_score, rows.matrix, same.key_position}) {
    bytes += static_cast<int64_t>(tensor.nbytes());
  }
  pending.visit_tensors([&](at::Tensor& tensor) {
    if (tensor.defined()) bytes -= static_cast<int64_t>(tensor.nbytes());
  });
  EXPECT_EQ(bytes, 0);
}

TEST(PendingAttentionTest, WhatIsNoProbabilityIsLeftOutWithAllLaterCalls) {
  const auto checks = std::make_shared<HookChecks>(2);
  const auto model = model_of({{'a', "0"}, {'a', "1"}});
  const auto checked = [](int64_t hook, int64_t rows) {
    MeasuredAttention attention = measured({hook});
    attention.improbable_rows = at::tensor(rows, at::kLong);
    return attention;
  };
  PendingAttention pending(model, checks, false);
  pending.add(checked(0, 2));
  pending.add(checked(1, 0));
  const ForwardRecord record = finish(pending);
  ASSERT_EQ(record.attention.size(), 1u);
  EXPECT_EQ(record.attention[0].hook, 1);
  ASSERT_EQ(record.unverified.size(), 1u);
  EXPECT_EQ(record.unverified[0].column, analysis::kProbabilitiesColumn);
  EXPECT_EQ(record.unverified[0].hook, 0);
  EXPECT_TRUE(record.unverified[0].stops_hook);
  EXPECT_EQ(record.unverified[0].reason, "in 2 of 6 rows one is negative or they sum to more than 1");
  EXPECT_TRUE(checks->stopped(0));
  EXPECT_FALSE(checks->stopped(1));
  pending.recorded(record);

  PendingAttention later(model, checks, false);  // begun before the verdict was back
  for (const int64_t hook : {0, 1}) later.add(measured({hook}));
  const ForwardRecord next = finish(later);
  ASSERT_EQ(next.attention.size(), 1u);
  EXPECT_EQ(next.attention[0].hook, 1);
  EXPECT_TRUE(next.unverified.empty()) << "it is told once";
}

}  // namespace
}  // namespace moetap::plugin
