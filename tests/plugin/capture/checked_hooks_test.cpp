// How what a hook's checks find reaches the records: see Note [A hook checks itself].
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "analysis/routers/router_sums.h"
#include "plugin/capture/hook_checks.h"
#include "tests/plugin/capture/device_forwards.h"

namespace moetap::plugin {
namespace {

enum class Wrong { kNothing, kWeights, kLogits, kIds };

/// Forwards of one router with a wrong tensor.
Reports reports(Wrong wrong, uint64_t seed, int64_t num_experts = kExperts) {
  Reports reports(2, 30, 1, seed);
  ReportedRouter& router = reports.routers[0];
  if (num_experts != kExperts) {
    router.logits = at::randn({60, num_experts});
    std::tie(router.weights[0], router.selected[0]) = router.logits.softmax(1).topk(2, 1);
  }
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
class CheckedHooks : public testing::TestWithParam<at::DeviceType> {
 protected:
  CheckedHooks() {
    fake_device::install();
    fake_device::set_eager(false);
  }
  ~CheckedHooks() override { fake_device::run_until_idle(); }

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

TEST_P(CheckedHooks, FindNothingWhereAllFits) {
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
TEST_P(CheckedHooks, WithholdWeights) {
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

TEST_P(CheckedHooks, WithholdLogits) {
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

TEST_P(CheckedHooks, WithoutRightIdsNothingIsRecorded) {
  const auto& records = record(Wrong::kIds);
  ASSERT_EQ(records.size(), 5u);
  for (const ForwardRecord& record : records) EXPECT_TRUE(record.routers.empty());
  EXPECT_EQ(records[0].unverified.at(0).column, analysis::kIdsColumn);
  EXPECT_EQ(run_.recording->counters().failed_hooks, 1);
  EXPECT_EQ(run_.recording->counters().called_hooks, 1);
}

INSTANTIATE_TEST_SUITE_P(Devices, CheckedHooks, testing::Values(at::kCPU, kType));

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

// On a device the next forward that comes to the hook is the one that can know.
TEST(HookChecksOnADevice, StrictThrowsOnceTheVerdictIsBack) {
  const at::NoGradGuard no_gradients;
  fake_device::install();
  fake_device::set_eager(false);
  for (const Wrong wrong : {Wrong::kWeights, Wrong::kIds}) {
    Config config;
    config.strict = true;
    RecordedRun run(config);
    const std::string model = run.bind(gates(1));
    const RunningDevice running;
    report(model, on(reports(wrong, 0), at::Device(kType, 0)));
    run.recording->flush();
    for (int call = 1; call < 3; ++call) {
      EXPECT_THROW(report(model, on(reports(wrong, 1), at::Device(kType, 0))), c10::Error) << call;
    }
  }
}

// The queue is full, or the model has thrown: no record of the model tells.
TEST(HookChecksOnTheCpu, WhatALostForwardFoundIsToldAtTheEnd) {
  const at::NoGradGuard no_gradients;
  for (const bool dropped : {true, false}) {
    Config config;
    config.on_overflow = OnOverflow::kDrop;
    config.queue_bytes = 1;
    RecordedRun run(config);
    const std::string another = run.bind(gates(1)), model = run.bind(gates(1));
    run.collected->hold(true);
    report(another, reports(Wrong::kNothing, 0));  // fills the queue
    const Reports lost = reports(Wrong::kWeights, 1);
    {
      ForwardRecorder recorder(find_binding(model), "forward", lost.arguments());
      recorder.router(0, lost.routers[0]);
      if (dropped) recorder.end();
    }
    const auto& records = run.close();
    EXPECT_EQ(run.recording->counters().dropped, dropped ? 1 : 0);
    EXPECT_EQ(run.recording->counters().forwards, 1);
    ASSERT_EQ(records.size(), 2u) << dropped;
    EXPECT_TRUE(records[1].values_only);
    ASSERT_EQ(records[1].unverified.size(), 1u);
    EXPECT_EQ(records[1].unverified[0].column, analysis::kWeightsColumn);
    EXPECT_TRUE(
        run.recording->counters().notices.contains("hook \"layers.0.gate\": its weights do not fit and are left out"));
  }
}

TEST(HookChecksOnTheCpu, WhatARecordTellsIsNotToldAgainAtTheEnd) {
  const at::NoGradGuard no_gradients;
  RecordedRun run;
  const std::string model = run.bind(gates(1));
  run.collected->hold(true);  // until all is in the queue
  report(model, reports(Wrong::kWeights, 0));
  EXPECT_EQ(run.close().size(), 1u);
}

// A tensor that the check cannot read.
TEST(HookChecksOnTheCpu, ThatFailAreNotTriedForEver) {
  const at::NoGradGuard no_gradients;
  RecordedRun run;
  const std::string model = run.bind(gates(1));
  for (int i = 0; i < 2 * HookChecks::kMostFirstCalls; ++i) {
    Reports unreadable = reports(Wrong::kNothing, static_cast<uint64_t>(i));
    unreadable.routers[0].choice = unreadable.routers[0].choice.to_sparse();
    report(model, unreadable);
  }
  for (const ForwardRecord& record : run.close()) EXPECT_EQ(record.routers.size(), 1u);
  EXPECT_EQ(run.recording->counters().notices.at("the numbers of a hook could not be checked"),
            HookChecks::kFirstCalls);
}

/// LibTorch operators of a call on a device, after the first calls.
int64_t operators_of_a_call(int64_t check_every, bool factors_of_experts, int64_t num_experts = kExperts) {
  Config config;
  config.probe_tokens = 0;
  config.check_every = check_every;
  RecordedRun run(config);
  ModelDescription description = gates(1);
  description.hooks[0].weights_have_factors_of_experts = factors_of_experts;
  const std::string model = run.bind(description);
  const Reports call = on(reports(Wrong::kNothing, 0, num_experts), at::Device(kType, 0));
  fake_device::Counts counts;
  for (int64_t i = 0; i <= HookChecks::kMostFirstCalls; ++i) {
    fake_device::reset_counts();
    report(model, call);
    counts = fake_device::counts();
    const RunningDevice running;
    run.recording->flush();
    const std::lock_guard lock(run.collected->mutex);
    run.collected->records.clear();  // a record that is kept holds its memory
  }
  EXPECT_EQ(counts.synchronizations, 0);
  EXPECT_EQ(counts.copies_to_host, 1);
  return counts.operations + counts.fills + counts.copies_on_device + counts.copies_to_device;
}

// Each takes a host some 5 us, in each of the first calls of each hook.
TEST(HookChecksOnADevice, CostSomeOperatorsAndThenNone) {
  const at::NoGradGuard no_gradients;
  fake_device::install();
  fake_device::set_eager(false);
  const int64_t unchecked = operators_of_a_call(/*check_every=*/0, false);
  EXPECT_LE(unchecked, 3);  // the mask, its cast, the block's reset
  EXPECT_EQ(operators_of_a_call(0, true), unchecked);
  EXPECT_LE(operators_of_a_call(1, false) - unchecked, 520);
  EXPECT_LE(operators_of_a_call(1, true) - unchecked, 850);
  EXPECT_LE(operators_of_a_call(1, true, 256) - unchecked, 1600);
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
