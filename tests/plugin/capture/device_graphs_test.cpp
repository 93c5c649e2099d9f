// What the replays of captured graphs report: see Note [Graphs] and Note [The fake device].
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include "analysis/routers/transition_sums.h"
#include "plugin/capture/device_stream.h"
#include "plugin/capture/forward_tokens.h"
#include "plugin/capture/router_pending.h"
#include "tests/plugin/capture/device_forwards.h"

namespace moetap::plugin {
namespace {

class DeviceGraphsTest : public DeviceRecordingTest {};

TEST_F(DeviceGraphsTest, ReplaysOfAGraphAddUp) {
  const at::Device device(kType, 0);
  const Reports reports = Reports(2, 6, 3, 5).to(device);
  RecordedRun plain, run;
  const std::string plain_model = plain.bind(gates(3)), model = run.bind(gates(3));
  for (int i = 0; i < 5; ++i) report(plain_model, reports);
  report(model, reports);
  fake_device::begin_capture();
  report(model, reports);
  const auto replay = fake_device::end_capture();
  EXPECT_EQ(run.recording->counters().forwards, 1) << "a capture is no forward";
  const RunningDevice running;
  run.recording->flush();
  for (int i = 0; i < 3; ++i) replay();
  run.recording->flush();
  run.recording->flush();
  replay();
  const auto& records = run.close();
  EXPECT_EQ(run.recording->counters().forwards, 5);
  EXPECT_EQ(run.recording->counters().replayed, 4);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[1].replays, 3);
  EXPECT_EQ(records[1].index, 1);
  EXPECT_EQ(records[1].tokens, 3 * 11);
  EXPECT_TRUE(records[1].samples.empty());
  EXPECT_EQ(records[2].replays, 1);
  EXPECT_EQ(records[2].index, 4);

  const auto total = [](const std::vector<ForwardRecord>& all, size_t router) {
    analysis::RouterSums sum;
    for (const ForwardRecord& record : all) merge(sum, sum_rows(record.routers[router].sums));
    return sum.words;
  };
  const auto ways = [](const std::vector<ForwardRecord>& all, size_t transition) {
    analysis::TransitionSums sum;
    for (const ForwardRecord& record : all) merge(sum, record.transitions[transition].sums);
    return sum.counts;
  };
  const auto& one_by_one = plain.close();
  for (size_t router = 0; router < 3; ++router) {
    EXPECT_TRUE(at::equal(total(records, router), total(one_by_one, router))) << router;
  }
  for (size_t transition = 0; transition < 2; ++transition) {
    EXPECT_TRUE(at::equal(ways(records, transition), ways(one_by_one, transition))) << transition;
  }
}

TEST_F(DeviceGraphsTest, StreamsOfAGraphWaitForTheFirstSlotsOfOtherStreams) {
  const at::Device device(kType, 0);
  const auto model = std::make_shared<const ModelDescription>(gates(2));
  PendingRouters routers(model, std::make_shared<ProbedTokens>(2), std::make_shared<HookChecks>(2));
  const auto group = std::make_shared<TokenGroup>();
  group->device = device;
  group->num_tokens = 8;
  const auto measured = [&](int64_t hook) {
    MeasuredRouter router;
    router.record.hook = hook;
    router.record.sums.num_experts = kExperts;
    router.tokens = group;
    router.first_slot = at::empty({8}, at::TensorOptions(at::kInt).device(device));
    router.first_slot_stays = true;
    return router;
  };
  const auto zeros = [&](at::IntArrayRef sizes, at::ScalarType dtype) {
    return at::empty(sizes, at::TensorOptions(dtype).device(device));
  };
  const c10::impl::VirtualGuardImpl guard(kType);
  const c10::Stream fork = guard.getNewStream(device), stream = guard.getStream(device);
  bool is_written = false;
  fake_device::enqueue(fork, [&] { is_written = true; });
  MeasuredRouter before = measured(0), router = measured(1);
  auto captured = std::make_shared<c10::Event>(kType);
  captured->record(fork);
  before.captured = captured;
  routers.add(before);
  EXPECT_TRUE(routers.count_transitions(router, zeros).first_slot.is_same(before.first_slot));
  EXPECT_FALSE(is_written);
  while (fake_device::run_next(stream)) {
  }
  EXPECT_TRUE(is_written);
}

TEST_F(DeviceGraphsTest, StreamsOfAGraphWaitForTheTokensOfOtherStreams) {
  const at::Device device(kType, 0);
  ForwardTokens tokens;
  const c10::impl::VirtualGuardImpl guard(kType);
  const c10::Stream fork = guard.getNewStream(device), stream = guard.getStream(device);
  bool is_written = false;
  std::shared_ptr<const TokenGroup> made;
  {
    const OnStream on_fork(fork);
    fake_device::enqueue(fork, [&] { is_written = true; });
    made = tokens.group_of({TextOfComponent::kNone, {8}, device}, nullptr);
  }
  EXPECT_EQ(tokens.group_of({TextOfComponent::kNone, {8}, device}, nullptr), made);
  EXPECT_FALSE(is_written);
  while (fake_device::run_next(stream)) {
  }
  EXPECT_TRUE(is_written);
}

TEST_F(DeviceGraphsTest, ReplaysAfterTheCloseAreDropped) {
  RecordedRun run;
  const std::string model = run.bind(gates(1));
  const Reports reports = Reports(2, 6, 1, 5).to(at::Device(kType, 0));
  fake_device::begin_capture();
  report(model, reports);
  const auto replay = fake_device::end_capture();
  const RunningDevice running;
  replay();
  EXPECT_EQ(run.close().size(), 1u);
  replay();
  replay();
  run.recording->flush();
  run.recording->flush();
  EXPECT_EQ(run.recording->counters().forwards, 1);
  EXPECT_EQ(run.recording->counters().dropped, 2);
}

}  // namespace
}  // namespace moetap::plugin
