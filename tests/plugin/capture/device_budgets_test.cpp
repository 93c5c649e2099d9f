// What a forward on a device costs the host, in the calls that take its time: operators of LibTorch, which a dispatcher
// hands on, and records of events. Budgets, so that a test fails when they grow. The fake device calls other operators
// in each of those that it runs, which count, too.
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include "plugin/capture/device_stream.h"
#include "plugin/capture/host_copies.h"
#include "tests/plugin/capture/device_forwards.h"
#include "tests/support/counting_allocator.h"

namespace moetap::plugin {
namespace {

/// Counts the operators that this thread calls while it lives.
class CountOperators {
 public:
  CountOperators() : before_(number) {}
  int64_t operators() const { return number - before_; }

  static void count(bool on) {
    static at::CallbackHandle handle = 0;
    if (on) {
      handle = at::addThreadLocalCallback(at::RecordFunctionCallback([](const at::RecordFunction&) {
                                            ++number;
                                            return std::unique_ptr<at::ObserverContext>();
                                          }).scopes({at::RecordScope::FUNCTION}));
    } else {
      at::removeCallback(handle);
    }
  }

 private:
  static thread_local int64_t number;
  const int64_t before_;
};
thread_local int64_t CountOperators::number = 0;

struct Costs {
  int64_t begin = 0, first_router = 0, other_routers = 0, end = 0;
  fake_device::Counts counts;
};

/// Of a forward of `layers` routers that is like those before it.
Costs costs_of(int64_t layers, bool padded) {
  Config config;
  config.probe_tokens = 0;
  RecordedRun run(config);
  const std::string model = run.bind(gates(layers));
  const Reports reports = Reports(2, 3, layers, 1, padded).to(at::Device(kType, 0));
  Costs costs;
  for (int forward = 0; forward < 12; ++forward) {
    fake_device::reset_counts();
    CountOperators::count(true);
    {
      const CountOperators of_begin;
      ForwardRecorder recorder(find_binding(model), "forward", reports.arguments());
      costs.begin = of_begin.operators();
      costs.other_routers = 0;
      for (int64_t hook = 0; hook < layers; ++hook) {
        const CountOperators of_router;
        recorder.router(hook, reports.routers[static_cast<size_t>(hook)]);
        if (hook == 0) costs.first_router = of_router.operators();
        if (hook > 0) costs.other_routers += of_router.operators();
      }
      const CountOperators of_end;
      recorder.end();
      costs.end = of_end.operators();
    }
    CountOperators::count(false);
    costs.counts = fake_device::counts();
    const RunningDevice running;
    run.recording->flush();
    const std::lock_guard lock(run.collected->mutex);
    run.collected->records.clear();  // a record that is kept holds its memory
  }
  return costs;
}

TEST_F(DeviceRecordingTest, AForwardCallsFewOperators) {
  constexpr int64_t kLayers = 9;
  for (const bool padded : {false, true}) {
    const Costs costs = costs_of(kLayers, padded);
    EXPECT_LE(costs.begin, 24) << "the mask, and its snapshot";
    EXPECT_LE(costs.first_router, 6) << "the tokens' columns";
    EXPECT_EQ(costs.other_routers, 0);
    EXPECT_LE(costs.end, 4) << "the copy to the host and the block's reset";
    EXPECT_LE(costs.counts.events, 5);
    EXPECT_EQ(costs.counts.new_events, 0) << "those of the forwards before are used again";
    EXPECT_EQ(costs.counts.capture_queries, 1) << "one a stream";
  }
}

TEST_F(DeviceRecordingTest, LeavingCapturesTakesNothingFromTheHeap) {
  const CountAllocations count;
  for (const c10::Device device : {at::Device(kType, 0), at::Device(at::kCPU)}) const OutsideCaptures outside(device);
  EXPECT_EQ(count.number(), 0);
}

TEST_F(DeviceRecordingTest, EachStreamIsAskedOnceUntilOneIsInACapture) {
  const at::Device device(kType, 0);
  HostCopies copies;
  const auto queries = [&] {
    fake_device::reset_counts();
    EXPECT_FALSE(copies.is_capturing(device));
    return fake_device::counts().capture_queries;
  };
  EXPECT_EQ(queries(), 1);
  EXPECT_EQ(queries(), 0);
  const c10::Stream fork = stream_for_copies(device);
  {
    const OnStream on_fork(fork);
    EXPECT_EQ(queries(), 1);
    EXPECT_EQ(queries(), 0);
  }
  EXPECT_FALSE(copies.is_capturing(at::kCPU));
  const at::Device other(kType, 1);
  fake_device::begin_capture();
  EXPECT_TRUE(copies.is_capturing(other)) << "a stream that was not asked";
  EXPECT_TRUE(copies.is_capturing(device)) << "now each is asked again";
  fake_device::end_capture();
}

}  // namespace
}  // namespace moetap::plugin
