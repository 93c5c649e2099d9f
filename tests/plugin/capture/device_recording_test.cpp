// What forwards on a device report, from its memory to the records: see Note [The fake device].
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "plugin/capture/device_stream.h"
#include "plugin/capture/forward_tokens.h"
#include "plugin/capture/host_copies.h"
#include "tests/plugin/capture/device_forwards.h"
#include "tests/support/fake_operators.h"

namespace moetap::plugin {
namespace {

TEST_F(DeviceRecordingTest, GivesWhatTheCpuGives) {
  for (const Dump dump : {Dump::kNone, Dump::kTopk, Dump::kFull}) {
    for (const bool log_per_token : {true, false}) {
      SCOPED_TRACE("dump " + std::to_string(static_cast<int>(dump)) + ", log_per_token " +
                   std::to_string(log_per_token));
      Config config;
      config.dump = dump;
      config.log_per_token = log_per_token;
      config.probe_tokens = 5;
      expect_as_on_the_cpu(config, 3, [](const std::string& model, at::Device device) {
        // Sizes that grow and shrink. With more than 32 tokens transitions are counted on the device, else on the host.
        for (const int64_t length : {3, 3, 40, 5, 40, 64, 1}) {
          report(model, Reports(2, length, 3, static_cast<uint64_t>(length)).to(device));
        }
      });
    }
  }
}

TEST_F(DeviceRecordingTest, KeepsForwardsApartThatOverlap) {
  Config config;
  config.dump = Dump::kTopk;
  expect_as_on_the_cpu(config, 2, [](const std::string& model, at::Device device) {
    for (int round = 0; round < 5; ++round) {
      const Reports first = Reports(1, 6, 2, 100 + round).to(device), second = Reports(1, 6, 2, 200 + round).to(device);
      ForwardRecorder a(find_binding(model), "forward", first.arguments());
      ForwardRecorder b(find_binding(model), "forward", second.arguments());
      a.router(0, first.routers[0]);
      b.router(0, second.routers[0]);
      a.router(1, first.routers[1]);
      b.router(1, second.routers[1]);
      a.end();
      b.end();
    }
  });
}

TEST_F(DeviceRecordingTest, InferenceModeAndNormalModeShareMemory) {
  expect_as_on_the_cpu(Config{}, 2, [](const std::string& model, at::Device device) {
    for (int round = 0; round < 8; ++round) {
      const c10::InferenceMode mode(round % 4 < 2);
      report(model, Reports(2, 5, 2, static_cast<uint64_t>(round)).to(device));
    }
  });
}

TEST_F(DeviceRecordingTest, ReportsInAnyOrder) {
  expect_as_on_the_cpu(Config{}, 3, [](const std::string& model, at::Device device) {
    for (const int64_t length : {4, 4, 50, 50}) {
      const Reports reports = Reports(2, length, 3, static_cast<uint64_t>(length)).to(device);
      ForwardRecorder recorder(find_binding(model), "forward", reports.arguments());
      for (const int64_t hook : {2, 0, 1}) recorder.router(hook, reports.routers[static_cast<size_t>(hook)]);
      recorder.end();
    }
  });
}

TEST_F(DeviceRecordingTest, TransitionsOfForksWaitForTheirStreams) {
  expect_as_on_the_cpu(Config{}, 2, [](const std::string& model, at::Device device) {
    for (const int64_t length : {50, 50, 60}) {  // first slots stay on the device
      const Reports reports = Reports(2, length, 2, static_cast<uint64_t>(length)).to(device);
      ForwardRecorder recorder(find_binding(model), "forward", reports.arguments());
      recorder.router(1, reports.routers[1]);
      {
        std::optional<OnStream> fork;
        if (!device.is_cpu()) fork.emplace(c10::impl::VirtualGuardImpl(kType).getNewStream(device));
        recorder.router(0, reports.routers[0]);
      }
      recorder.end();
    }
  });
}

TEST_F(DeviceRecordingTest, WhatForksReadIsKeptUntilTheirStreamsHaveReadIt) {
  const at::Device device(kType, 0);
  const Reports reports = Reports(2, 6, 1, 5).to(device);
  HostCopies copies;
  at::Tensor first, ids, valid;
  {
    ForwardTokens tokens;
    TextArguments places;
    places.ids = 0;
    places.mask = 1;
    tokens.read(places, reports.arguments(), /*keep_ids=*/true, copies, [](const auto&, const auto&) {});
    const auto group = tokens.group_of({TextOfComponent::kText, {2, 6}, device}, &copies);
    first = tokens.first_valid(group, 3, copies);
    ids = tokens.text().ids;
    valid = tokens.text().valid;
  }
  for (const at::Tensor& tensor : {first, ids, valid}) EXPECT_EQ(tensor.use_count(), 3) << "here, the loop, the copies";
  copies.finish_enqueuing();
  fake_device::run_until_idle();
  copies.wait();
  for (const at::Tensor& tensor : {first, ids, valid}) EXPECT_EQ(tensor.use_count(), 2);
}

TEST_F(DeviceRecordingTest, ForwardsGoOnWhileAnotherThreadCapturesAGraph) {
  const auto report_all = [](const std::string& model, at::Device device) {
    std::vector<Reports> growing;
    for (const int64_t length : {3, 40, 400, 4000}) growing.push_back(Reports(2, length, 2, 1).to(device));
    growing.push_back(growing.back());  // has room in a block
    std::promise<void> began, done;
    std::thread other([&] {
      fake_device::begin_capture();
      began.set_value();
      done.get_future().wait();
      fake_device::end_capture();
    });
    began.get_future().wait();
    for (const Reports& reports : growing) report(model, reports);
    // Transitions are counted, and valid tokens summed up, when the forward ends.
    ForwardRecorder backwards(find_binding(model), "forward", growing[2].arguments());
    for (const size_t hook : {1, 0}) backwards.router(static_cast<int64_t>(hook), growing[2].routers[hook]);
    backwards.end();
    ForwardRecorder without_routers(find_binding(model), "forward", growing[2].arguments());
    without_routers.end();
    done.set_value();
    other.join();
  };
  for (const Dump dump : {Dump::kNone, Dump::kFull}) {
    Config config;
    config.dump = dump;
    expect_as_on_the_cpu(config, 2, report_all);
  }
}

TEST_F(DeviceRecordingTest, StreamsAndDevices) {
  expect_as_on_the_cpu(Config{}, 4, [](const std::string& model, at::Device device) {
    for (int round = 0; round < 4; ++round) {
      const Reports reports(2, 20, 4, static_cast<uint64_t>(round));
      const Reports here = reports.to(device);
      ForwardRecorder recorder(find_binding(model), "forward", here.arguments());
      recorder.router(0, here.routers[0]);
      if (device.is_cpu()) {
        for (int64_t hook = 1; hook < 4; ++hook) recorder.router(hook, here.routers[static_cast<size_t>(hook)]);
        recorder.end();
        continue;
      }
      const c10::impl::VirtualGuardImpl guard(device.type());
      const c10::Stream before = guard.getStream(device), other = guard.getStreamFromGlobalPool(device);
      guard.exchangeStream(other);
      recorder.router(1, here.routers[1]);
      guard.exchangeStream(before);
      const Reports there = reports.to(at::Device(kType, 1));  // two layers on another device
      recorder.router(2, there.routers[2]);
      recorder.router(3, there.routers[3]);
      recorder.end();
    }
  });
}

TEST_F(DeviceRecordingTest, AForwardThatThrowsLeavesItsMemoryClean) {
  expect_as_on_the_cpu(Config{}, 2, [](const std::string& model, at::Device device) {
    for (int round = 0; round < 6; ++round) {
      const Reports reports = Reports(2, 5, 2, static_cast<uint64_t>(round)).to(device);
      ForwardRecorder recorder(find_binding(model), "forward", reports.arguments());
      recorder.router(0, reports.routers[0]);
      if (round % 2 == 1) continue;
      recorder.router(1, reports.routers[1]);
      recorder.end();
    }
  });
}

TEST_F(DeviceRecordingTest, ACallThatThrowsOnAnotherStreamLeavesItsMemoryClean) {
  const at::Device device(kType, 0);
  const Reports reports = Reports(2, 5, 1, 1).to(device);
  RecordedRun run;
  const std::string model = run.bind(gates(1));
  report(model, reports);
  fake_device::run_until_idle();
  run.recording->flush();  // from now on forwards have a block
  const c10::Stream fork = c10::impl::VirtualGuardImpl(kType).getNewStream(device);
  testing::internal::CaptureStderr();
  {
    ForwardRecorder recorder(find_binding(model), "forward", reports.arguments());
    {
      const OnStream on_fork(fork);
      fake_device::fail_next_router_kernel();
      recorder.router(0, reports.routers[0]);
    }
    recorder.end();
  }
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(run.recording->counters().failed_hooks, 1);
  // The device resets the block first, and only then gets round to the fork, as far as nothing orders the two.
  BlockPool& pool = find_binding(model)->block_pools()->of(device);
  while (fake_device::run_next(pool.side_stream())) {
  }
  fake_device::run_until_idle();
  run.recording->flush();
  const auto block = pool.take();
  ASSERT_NE(block, nullptr);
  const at::Tensor memory = fake_device::on_cpu(block->take({4096}, at::kLong));
  EXPECT_EQ(memory.count_nonzero().item<int64_t>(), 0);
}

TEST_F(DeviceRecordingTest, AForkThatReportsAfterTheEndSpoilsNothing) {
  expect_as_on_the_cpu(Config{}, 2, [](const std::string& model, at::Device device) {
    for (int round = 0; round < 6; ++round) {
      const Reports reports = Reports(2, 5, 2, static_cast<uint64_t>(round)).to(device);
      ForwardRecorder recorder(find_binding(model), "forward", reports.arguments());
      recorder.router(0, reports.routers[0]);
      recorder.end();
      recorder.router(1, reports.routers[1]);
    }
  });
}

TEST_F(DeviceRecordingTest, OneCopyAndNoWaitingAForward) {
  for (const bool log_per_token : {true, false}) {
    for (const int64_t length : {4, 64}) {
      SCOPED_TRACE("log_per_token " + std::to_string(log_per_token) + ", length " + std::to_string(length));
      Config config;
      config.log_per_token = log_per_token;
      config.probe_tokens = 0;
      RecordedRun run(config);
      const std::string model = run.bind(gates(3));
      const Reports reports = Reports(2, length, 3, 1, /*padded=*/true).to(at::Device(kType, 0));
      const auto settle = [&] {
        const RunningDevice running;
        run.recording->flush();
        const std::lock_guard lock(run.collected->mutex);
        run.collected->records.clear();  // a record that is kept holds its memory
      };
      for (int64_t i = 0; i < HookChecks::kMostFirstCalls; ++i) {
        report(model, reports);
        settle();
      }
      fake_device::reset_counts();
      for (int i = 0; i < 5; ++i) {
        report(model, reports);
        const fake_device::Counts counts = fake_device::counts();
        EXPECT_EQ(counts.synchronizations, 0);
        EXPECT_EQ(counts.copies_to_host, i + 1);
        EXPECT_EQ(counts.fills, i + 1);
        EXPECT_EQ(counts.kernels, 3 * (i + 1));
        EXPECT_EQ(counts.pinned_allocations, 0);
        // Operations of LibTorch compute nothing but the mask.
        EXPECT_LE(counts.operations, 1 * (i + 1));
        settle();
        EXPECT_EQ(fake_device::counts().synchronizations, 0) << "the writer asks, it does not wait";
      }
      // The mask, and first slots that stay on the device. They are from LibTorch's allocator, which caches memory.
      EXPECT_EQ(fake_device::counts().allocations, 2 * length * 4 > kExperts * kExperts * 8 ? 5 * (1 + 3) : 5);
      const RunningDevice running;
      run.close();
      EXPECT_EQ(run.recording->counters().forwards, HookChecks::kMostFirstCalls + 5);
    }
  }
}

TEST_F(DeviceRecordingTest, WithoutSingleTokensTheBytesDoNotGrowWithThem) {
  const auto bytes_of = [](int64_t length, bool log_per_token) {
    Config config;
    config.log_per_token = log_per_token;
    config.probe_tokens = 0;
    RecordedRun run(config);
    const std::string model = run.bind(gates(3));
    const Reports reports = Reports(2, length, 3, 1).to(at::Device(kType, 0));
    const RunningDevice running;
    for (int64_t i = 0; i <= HookChecks::kMostFirstCalls; ++i) {  // the last call is not checked
      fake_device::reset_counts();
      report(model, reports);
      run.recording->flush();
    }
    return fake_device::counts().bytes_to_host;
  };
  const int64_t words = 3 * (2 * (33 + 8 * kExperts) + kExperts * (kExperts - 1) / 2) + 2 * kExperts * kExperts;
  const int64_t bytes = bytes_of(64, false);
  EXPECT_GE(bytes, words * 8);
  EXPECT_LE(bytes, words * 8 + 5 * 64) << "pieces begin at multiples of 64 bytes";
  EXPECT_EQ(bytes_of(640, false), bytes);
  EXPECT_GE(bytes_of(640, true) - bytes, 3 * 640 * 2 * 2 * 8) << "ids and weights of each token";
}

TEST_F(DeviceRecordingTest, AHostThatRunsAheadOfTheDeviceIsNotStopped) {
  Config config;
  RecordedRun run(config);
  const std::string model = run.bind(gates(2));
  for (int i = 0; i < 30; ++i) report(model, Reports(1, 4, 2, 7).to(at::Device(kType, 0)));
  EXPECT_EQ(run.recording->counters().forwards, 30);
  const RunningDevice running;
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 30u);
  for (const ForwardRecord& record : records) {
    EXPECT_TRUE(at::equal(record.routers[1].sums.words, records[0].routers[1].sums.words));
  }
}

TEST_F(DeviceRecordingTest, IdsOutOfRangeAreCounted) {
  RecordedRun run;
  const std::string model = run.bind(gates(1));
  Reports reports(1, 4, 1, 3, /*padded=*/false);
  reports.routers[0].selected[0][2][1].fill_(kExperts);
  report(model, reports.to(at::Device(kType, 0)));
  const RunningDevice running;
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].out_of_range, 1);
  EXPECT_EQ(records[0].routers[0].selected[2][1].item<int64_t>(), -1);
}

}  // namespace
}  // namespace moetap::plugin
