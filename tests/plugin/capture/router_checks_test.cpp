#include "plugin/capture/router_checks.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "analysis/routers/router_sums.h"
#include "tests/plugin/capture/device_forwards.h"

namespace moetap::plugin {
namespace {

using analysis::RouterVerdict;

TEST(RouterChecks, TheFirstCallsAreCheckedUntilTheirVerdictsAreBack) {
  RouterChecks checks(2);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(checks.begin_call(0));  // in flight
  for (int64_t i = 0; i < RouterChecks::kFirstCalls; ++i) checks.came_back(0, 30, {});
  EXPECT_FALSE(checks.begin_call(0));
  EXPECT_TRUE(checks.begin_call(1));
}

// A generation's steps have a token or two, and calls of no tokens prove nothing.
TEST(RouterChecks, GoesOnWhereCallsHaveFewTokens) {
  RouterChecks checks(1);
  for (int i = 0; i < 40; ++i) checks.came_back(0, 0, {});
  EXPECT_TRUE(checks.begin_call(0));
  for (int64_t i = 0; i + 1 < RouterChecks::kMostFirstCalls; ++i) {
    checks.came_back(0, 1, {});
    EXPECT_TRUE(checks.begin_call(0));
  }
  checks.came_back(0, 1, {});
  EXPECT_FALSE(checks.begin_call(0));
}

TEST(RouterChecks, StopsAHookWithoutRightIdsOnce) {
  RouterChecks checks(3);
  checks.came_back(0, 30, {{analysis::kIdsColumn, "wrong"}});
  EXPECT_TRUE(checks.stopped(0));
  EXPECT_FALSE(checks.stop(0));
  checks.came_back(1, 30, {{analysis::kWeightsColumn, "wrong"}});
  EXPECT_FALSE(checks.stopped(1));
  EXPECT_TRUE(checks.stop(2));  // it failed
  checks.came_back(2, 30, {{analysis::kIdsColumn, "wrong"}});
  for (const UnverifiedColumn& column : checks.untold()) EXPECT_EQ(column.stops_hook, column.hook == 0) << column.hook;
}

TEST(RouterChecks, LaterOneOfSoMany) {
  RouterChecks checks(1, 4);
  for (int64_t i = 0; i < RouterChecks::kFirstCalls; ++i) {
    EXPECT_TRUE(checks.begin_call(0));
    checks.came_back(0, 30, {});
  }
  std::vector<int> checked;
  for (int call = 3; call < 14; ++call) {
    if (checks.begin_call(0)) checked.push_back(call);
  }
  EXPECT_EQ(checked, (std::vector<int>{4, 8, 12}));
}

TEST(RouterChecks, WhatDoesNotFitStaysWithheldAndIsToldOnce) {
  RouterChecks checks(2);
  EXPECT_EQ(checks.withheld(1), 0u);
  EXPECT_EQ(checks.reason(1), "");
  checks.came_back(1, 30, {{analysis::kWeightsColumn, "first"}});
  checks.came_back(1, 30, {{analysis::kWeightsColumn, "again"}, {analysis::kScoresColumn, "too"}});
  checks.came_back(1, 30, {});
  EXPECT_EQ(checks.withheld(0), 0u);
  EXPECT_EQ(checks.withheld(1), analysis::kWeightsColumn | analysis::kScoresColumn);
  EXPECT_EQ(checks.reason(1), "scores do not fit: too");
  const auto untold = checks.untold();
  ASSERT_EQ(untold.size(), 2u);
  EXPECT_EQ(untold[0].hook, 1);
  EXPECT_EQ(untold[0].column, analysis::kScoresColumn);
  EXPECT_EQ(untold[1].column, analysis::kWeightsColumn);
  EXPECT_EQ(untold[1].reason, "first");
  checks.told({untold[0]});
  ASSERT_EQ(checks.untold().size(), 1u);
  checks.told(untold);
  EXPECT_TRUE(checks.untold().empty());
}

enum class Wrong { kNothing, kWeights, kLogits, kIds };

/// Forwards of one router with a wrong tensor.
Reports reports(Wrong wrong, uint64_t seed) {
  Reports reports(2, 30, 1, seed);
  ReportedRouter& router = reports.routers[0];
  router.scores = router.logits.softmax(1);
  router.choice = router.scores;
  if (wrong == Wrong::kWeights) router.weights[0] = router.weights[0].roll(1, 0);
  if (wrong == Wrong::kLogits) router.logits = router.logits + at::randn_like(router.logits);
  if (wrong == Wrong::kIds) router.selected[0] = router.selected[0].roll(1, 0);
  return reports;
}

Reports on(const Reports& reports, at::Device device) {
  Reports moved = reports.to(device);
  moved.routers[0].scores = moved.routers[0].scores.to(device);
  moved.routers[0].choice = moved.routers[0].choice.to(device);
  return moved;
}

Config full_dump() {
  Config config;
  config.dump = Dump::kFull;
  return config;
}

/// On the CPU, and on a device whose results come late.
class HookChecks : public testing::TestWithParam<at::DeviceType> {
 protected:
  HookChecks() {
    fake_device::install();
    fake_device::set_eager(false);
  }
  ~HookChecks() override { fake_device::run_until_idle(); }

  /// What is recorded of `forwards` forwards, all enqueued before the device begins.
  const std::vector<ForwardRecord>& record(Wrong wrong, int forwards = 5) {
    const std::string model = run_.bind(gates(1));
    const at::Device device = GetParam() == at::kCPU ? at::Device(at::kCPU) : at::Device(kType, 0);
    for (int i = 0; i < forwards; ++i) report(model, on(reports(wrong, static_cast<uint64_t>(i)), device));
    const RunningDevice running;
    return run_.close();
  }

  const at::NoGradGuard no_gradients_;
  RecordedRun run_{full_dump()};
};

TEST_P(HookChecks, FindNothingWhereAllFits) {
  for (const ForwardRecord& record : record(Wrong::kNothing)) {
    EXPECT_TRUE(record.unverified.empty());
    ASSERT_EQ(record.routers.size(), 1u);
    EXPECT_TRUE(record.routers[0].weights.defined());
    EXPECT_TRUE(record.routers[0].logits.defined());
    EXPECT_TRUE(record.routers[0].scores.defined());
  }
  EXPECT_TRUE(run_.recording->counters().notices.empty());
}

// Weights decide which slots count: without them all is as in a model that has none.
TEST_P(HookChecks, WithholdWeights) {
  const auto& records = record(Wrong::kWeights);
  ASSERT_EQ(records.size(), 5u);
  for (size_t i = 0; i < records.size(); ++i) {
    ASSERT_EQ(records[i].routers.size(), 1u);
    const RouterRecord& router = records[i].routers[0];
    EXPECT_FALSE(router.weights.defined());
    EXPECT_FALSE(router.margins.defined());
    EXPECT_TRUE(router.logits.defined());
    EXPECT_TRUE(router.scores.defined());
    analysis::RouterCall call;
    call.num_experts = kExperts;
    call.logits = router.logits;
    call.scores = router.scores;
    call.selected = router.selected;
    const analysis::RouterSums expected = analysis::observe(call, {router.row, 2});
    EXPECT_TRUE(at::equal(router.sums.words, expected.words));
  }
  ASSERT_EQ(records[0].unverified.size(), 1u);
  EXPECT_EQ(records[0].unverified[0].column, analysis::kWeightsColumn);
  EXPECT_TRUE(records[1].unverified.empty());
  EXPECT_EQ(run_.recording->counters().failed_hooks, 0);
  EXPECT_EQ(run_.recording->counters().notices.size(), 1u);
}

TEST_P(HookChecks, WithholdLogits) {
  const auto& records = record(Wrong::kLogits);
  for (const ForwardRecord& record : records) {
    ASSERT_EQ(record.routers.size(), 1u);
    const RouterRecord& router = record.routers[0];
    EXPECT_FALSE(router.logits.defined());
    EXPECT_TRUE(router.weights.defined());
    analysis::RouterCall call;
    call.num_experts = kExperts;
    call.scores = router.scores;
    call.selected = router.selected;
    call.weights = router.weights;
    EXPECT_TRUE(at::equal(router.sums.words, analysis::observe(call, {router.row, 2}).words));
  }
  EXPECT_EQ(records[0].unverified.at(0).column, analysis::kLogitsColumn);
}

TEST_P(HookChecks, WithoutRightIdsNothingIsRecorded) {
  const auto& records = record(Wrong::kIds);
  ASSERT_EQ(records.size(), 5u);
  for (const ForwardRecord& record : records) EXPECT_TRUE(record.routers.empty());
  EXPECT_EQ(records[0].unverified.at(0).column, analysis::kIdsColumn);
  EXPECT_EQ(run_.recording->counters().failed_hooks, 1);
  EXPECT_EQ(run_.recording->counters().called_hooks, 1);
}

INSTANTIATE_TEST_SUITE_P(Devices, HookChecks, testing::Values(at::kCPU, kType));

// The forward's thread learns of it from the first record, and then leaves the column out itself.
TEST(HookChecksOnADevice, ACallThatWasNotCheckedIsLeftOutWhole) {
  const at::NoGradGuard no_gradients;
  fake_device::install();
  fake_device::set_eager(false);
  Config config = full_dump();
  config.check_every = 5;
  RecordedRun run(config);
  const std::string model = run.bind(gates(1));
  const at::Device device(kType, 0);
  const RunningDevice running;
  const auto report_call = [&](int call) {
    const Wrong wrong = call < 5 ? Wrong::kNothing : Wrong::kWeights;
    report(model, on(reports(wrong, static_cast<uint64_t>(call)), device));
  };
  for (int call = 0; call < 4; ++call) {  // the first three are checked
    report_call(call);
    run.recording->flush();
  }
  run.collected->hold(true);  // the writer waits at record 4, so it has no verdict on call 5
  report_call(4);
  report_call(5);  // checked
  report_call(6);  // not checked, and measured before that verdict is back
  run.collected->hold(false);
  run.recording->flush();
  report_call(7);
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 8u);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(records[static_cast<size_t>(i)].routers.at(0).weights.defined());
  EXPECT_FALSE(records[5].routers.at(0).weights.defined());
  EXPECT_TRUE(records[6].routers.empty());
  EXPECT_FALSE(records[7].routers.at(0).weights.defined());
}

TEST(HookChecksOnTheCpu, StrictThrows) {
  const at::NoGradGuard no_gradients;
  Config config;
  config.strict = true;
  RecordedRun run(config);
  const std::string model = run.bind(gates(1));
  EXPECT_NO_THROW(report(model, reports(Wrong::kNothing, 0)));
  run.recording->flush();  // else its record may be the one that tells
  try {
    report(model, reports(Wrong::kWeights, 1));
    ADD_FAILURE() << "did not throw";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what_without_backtrace()).find("\"layers.0.gate\": weights do not fit"),
              std::string::npos);
  }
  const auto& records = run.close();  // the forward that threw is none
  ASSERT_EQ(records.size(), 2u);
  EXPECT_TRUE(records[1].values_only);
  EXPECT_EQ(records[1].unverified.at(0).column, analysis::kWeightsColumn);
}

// A right call keeps its columns, however late it is written.
TEST(HookChecksOnTheCpu, EarlierCallsStay) {
  const at::NoGradGuard no_gradients;
  RecordedRun run(full_dump());
  const std::string model = run.bind(gates(1));
  run.collected->hold(true);
  report(model, reports(Wrong::kNothing, 0));
  report(model, reports(Wrong::kWeights, 1));
  run.collected->hold(false);
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_TRUE(records[0].routers.at(0).weights.defined());
  EXPECT_FALSE(records[1].routers.at(0).weights.defined());
}

}  // namespace
}  // namespace moetap::plugin
