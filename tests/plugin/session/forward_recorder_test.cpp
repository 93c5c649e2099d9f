#include "plugin/session/forward_recorder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "analysis/attention/attention_metrics.h"
#include "tests/plugin/support/recorded_run.h"
#include "tests/plugin/support/synthetic_attention.h"

namespace moetap::plugin {
namespace {

at::Tensor ids_of(int64_t batch, int64_t length = 3) {
  return at::zeros({batch, length}, at::kLong);
}

std::shared_ptr<ModelBinding> bind(RecordedRun& run, const ModelDescription& model = gates(1)) {
  return ModelRegistry::get().find(run.bind(model));
}

ReportedRouter six_tokens() {
  return {at::zeros({6, 4}), {}, {at::zeros({6, 1}, at::kLong)}, {}, -1, "slots"};
}

TEST(ForwardRecorder, ATowerWithoutBatchIsNotAttributed) {
  RecordedRun run;
  const auto binding = bind(run, gates(1, "vision_tower"));
  const c10::List<std::optional<at::Tensor>> arguments({ids_of(2), at::zeros({2, 3})});
  {
    ForwardRecorder recorder(binding, "forward", arguments);
    recorder.router(0, {at::zeros({6, 4}), {}, {at::zeros({6, 1}, at::kLong)}, {}, -1, "slots"});
    recorder.router(0, {at::zeros({2, 5, 4}), {}, {at::zeros({2, 5, 1}, at::kLong)}, {}, -1, "slots"});
    recorder.end();
  }
  const auto& record = run.close().at(0);
  EXPECT_FALSE(record.routers.at(0).attributed);
  EXPECT_EQ(record.routers[0].sums.num_rows, 1);
  EXPECT_EQ(record.routers[0].sums.tokens(), 6);  // the text's mask, all zero, is not theirs
  EXPECT_TRUE(record.routers.at(1).attributed);
  EXPECT_FALSE(record.routers[1].text);
  EXPECT_EQ(record.routers[1].sums.num_rows, 2);
  EXPECT_EQ(run.collected->counters.unattributed, 1);
}

TEST(ForwardRecorder, ALaterRouterMayShowTheSamples) {
  RecordedRun run;
  const auto binding = bind(run, gates(1, "vision_tower"));
  {
    ForwardRecorder recorder(binding, "forward", c10::List<std::optional<at::Tensor>>());
    recorder.router(0, {at::zeros({6, 4}), {}, {at::zeros({6, 1}, at::kLong)}, {}, -1, "slots"});
    recorder.router(0, {at::zeros({3, 2, 4}), {}, {at::zeros({3, 2, 1}, at::kLong)}, {}, -1, "slots"});
    recorder.end();
  }
  const auto& record = run.close().at(0);
  EXPECT_EQ(record.samples.size(), 3u);
  EXPECT_FALSE(record.routers.at(0).attributed);
  EXPECT_TRUE(at::equal(record.routers[0].row, at::full({6}, -1, at::kLong)));
  EXPECT_TRUE(record.routers.at(1).attributed);
}

TEST(ForwardRecorder, WhatVariesFromForwardToForwardIsOneNotice) {
  RecordedRun run;
  const auto binding = bind(run);
  testing::internal::CaptureStderr();
  for (int64_t length = 1; length <= 5; ++length) {
    const at::Tensor mask = at::ones({1, 1, length, length});  // not understood, another size each time
    ForwardRecorder recorder(binding, "forward", c10::List<std::optional<at::Tensor>>({ids_of(1, length), mask}));
    recorder.end();
  }
  run.close();
  EXPECT_EQ(
      testing::internal::GetCapturedStderr(),
      "moetap: the token mask must be [B, S], others are not used: expected [B = 1, S = 1 or more], got [1, 1, 1, "
      "1]\n");
  const std::map<std::string, int64_t> notices = {{"the token mask must be [B, S], others are not used", 5}};
  EXPECT_EQ(run.collected->counters.notices, notices);
}

TEST(ForwardRecorder, TheTextCountsTokensThatNoRouterSaw) {
  RecordedRun run;
  const auto binding = bind(run, gates(1, "vision_tower"));
  const at::Tensor mask = at::tensor({1, 1, 1, 1, 0, 0}, at::kLong).reshape({2, 3});
  for (const bool with_router : {false, true}) {
    ForwardRecorder recorder(binding, "forward", c10::List<std::optional<at::Tensor>>({ids_of(2), mask}));
    if (with_router) recorder.router(0, six_tokens());
    recorder.end();
  }
  for (const ForwardRecord& record : run.close()) EXPECT_EQ(record.tokens, 4);
  EXPECT_EQ(run.collected->counters.tokens, 8);
}

TEST(ForwardRecorder, TheLastValueOfANameCounts) {
  RecordedRun run;
  {
    ForwardRecorder recorder(bind(run), "forward", c10::List<std::optional<at::Tensor>>());
    recorder.log("c", "0", "a", at::scalar_tensor(1.5, at::kDouble));
    recorder.log("c", "0", "a", int64_t{2});
    recorder.log("c", "0", "b", int64_t{3});
    recorder.log("c", "0", "b", at::scalar_tensor(4, at::kLong));
    recorder.end();
    recorder.log("c", "0", "late", true);
  }
  const std::map<std::string, CustomValue> expected = {{"a", int64_t{2}}, {"b", int64_t{4}}};
  EXPECT_EQ(run.close().at(0).custom.at({"c", "0"}), expected);
}

TEST(ForwardRecorder, AHookThatTheModelDoesNotHaveStopsNoHost) {
  for (const bool strict : {false, true}) {
    Config config;
    config.strict = strict;
    RecordedRun run(config);
    ForwardRecorder recorder(bind(run), "forward", c10::List<std::optional<at::Tensor>>());
    testing::internal::CaptureStderr();
    for (const int64_t hook : {-1, 1}) {
      if (strict) {
        EXPECT_THROW(recorder.router(hook, six_tokens()), c10::Error);
      } else {
        EXPECT_NO_THROW(recorder.router(hook, six_tokens()));
      }
    }
    EXPECT_EQ(
        testing::internal::GetCapturedStderr().rfind("moetap: a hook that the model does not have has reported: ", 0),
        0u);
    recorder.router(0, six_tokens());
    recorder.end();
    EXPECT_EQ(run.close().at(0).routers.size(), 1u);
    EXPECT_EQ(run.collected->counters.failed_hooks, 0);
    EXPECT_EQ(run.collected->counters.notices.at("a hook that the model does not have has reported"), 2);
  }
}

TEST(ForwardRecorder, WithoutItsEndAForwardIsAborted) {
  RecordedRun run;
  {
    ForwardRecorder recorder(bind(run), "forward", c10::List<std::optional<at::Tensor>>({ids_of(2), at::Tensor()}));
    recorder.router(0, six_tokens());
  }
  EXPECT_TRUE(run.close().empty());
  EXPECT_EQ(run.collected->counters.aborted, 1);
}

/// A router (hook 0) and two attention layers of 2 heads (hooks 1 and 2).
ModelDescription gate_and_attention() {
  ModelDescription model = gates(1);
  add_attention_hooks(model, {{"language_model", "0"}, {"language_model", "1"}});
  return model;
}

ReportedAttention six_queries() {
  ReportedAttention reported;
  reported.probabilities = seeded_probabilities(1, 2, 3);
  reported.layout = "bhqk";
  return reported;
}

TEST(ForwardRecorder, AnAttentionHookThatFailsStopsAlone) {
  Config config;
  config.attention = Attention::kStats;
  RecordedRun run(config);
  const auto binding = bind(run, gate_and_attention());
  testing::internal::CaptureStderr();
  for (int forward = 0; forward < 3; ++forward) {
    ForwardRecorder recorder(binding, "forward", c10::List<std::optional<at::Tensor>>({ids_of(2), at::Tensor()}));
    ReportedAttention bad = six_queries();
    if (forward == 1) bad.layout = "bqk";
    EXPECT_NO_THROW(recorder.attention(1, bad));
    recorder.attention(2, six_queries());
    recorder.router(0, six_tokens());
    recorder.end();
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moetap: hook \"language_model.layers.0.attn\" failed and records no more: attention: probabilities must "
            "have the "
            "dimensions \"bqk\", got [2, 2, 3, 3]\n");
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 3u);
  for (size_t forward = 0; forward < 3; ++forward) {
    EXPECT_EQ(records[forward].routers.size(), 1u);
    ASSERT_EQ(records[forward].attention.size(), forward == 0 ? 2u : 1u);
    EXPECT_EQ(records[forward].attention.back().hook, 2);
  }
  EXPECT_EQ(run.collected->counters.failed_hooks, 1);
}

TEST(ForwardRecorder, AStrictSessionThrowsWhatAttentionFailedWith) {
  Config config;
  config.attention = Attention::kStats;
  config.strict = true;
  RecordedRun run(config);
  testing::internal::CaptureStderr();
  {
    ForwardRecorder recorder(bind(run, gate_and_attention()), "forward",
                             c10::List<std::optional<at::Tensor>>({ids_of(2), at::Tensor()}));
    ReportedAttention bad = six_queries();
    bad.layout = "bqk";
    EXPECT_THROW(recorder.attention(1, bad), c10::Error);
  }
  testing::internal::GetCapturedStderr();
  EXPECT_TRUE(run.close().empty());
  EXPECT_EQ(run.collected->counters.failed_hooks, 1);
}

TEST(ForwardRecorder, WithAttentionOffItIsNotObserved) {
  RecordedRun run;
  const auto binding = bind(run, gate_and_attention());
  ForwardRecorder recorder(binding, "forward", c10::List<std::optional<at::Tensor>>({ids_of(2), at::Tensor()}));
  recorder.attention(1, {});  // would fail
  recorder.router(0, six_tokens());
  recorder.end();
  EXPECT_TRUE(run.close().at(0).attention.empty());
  EXPECT_EQ(run.collected->counters.failed_hooks, 0);
}

TEST(ForwardRecorder, AnArgumentGivesTheRegions) {
  Config config;
  config.attention = Attention::kStats;
  config.attention_regions = "argument:kinds";
  RecordedRun run(config);
  ModelDescription model = gate_and_attention();
  model.method_arguments["forward"] = {"input_ids", "attention_mask", "kinds"};
  const auto binding = bind(run, model);
  const at::Tensor kinds = at::tensor({3, 3, 3, 9, 9, 9}, at::kLong).reshape({2, 3});
  testing::internal::CaptureStderr();
  for (const at::Tensor& given : {kinds, kinds.to(at::kInt), at::Tensor()}) {
    ForwardRecorder recorder(binding, "forward",
                             c10::List<std::optional<at::Tensor>>({ids_of(2), at::Tensor(), given}));
    recorder.attention(1, six_queries());
    recorder.end();
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moetap: a forward does not give the argument of attention_regions as [B, S]: its tokens are of the last "
            "region: kinds of forward\n");
  const auto& records = run.close();
  for (size_t forward = 0; forward < 3; ++forward) {
    for (const int64_t sample : {0, 1}) {
      const auto metrics = finalize(select_row(records.at(forward).attention.at(0).sums, sample));
      const size_t region = forward == 2 ? 15 : sample == 0 ? 3 : 9;
      EXPECT_NEAR(metrics.region_mass.value().at(region), 1, 1e-6) << forward << ", sample " << sample;
    }
  }
}

}  // namespace
}  // namespace moetap::plugin
