#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "plugin/operators.h"
#include "plugin/session/forward_recorder.h"
#include "tests/plugin/support/recorded_run.h"
#include "tests/plugin/support/scripted_moe.h"
#include "tests/support/fake_device.h"

// Forwards on the fake device, and what they must record.
namespace moetap::plugin {

using fake_device::kType;
inline constexpr int64_t kExperts = 4;

/// While it lives, a thread runs what is enqueued: as a device does, while the host goes on.
class RunningDevice {
 public:
  ~RunningDevice() {
    stops_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stops_ = false;
  std::thread thread_{[this] {
    while (!stops_) {
      fake_device::run_until_idle();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    fake_device::run_until_idle();
  }};
};

/// What a forward of [batch, length] tokens through `layers` routers reports.
struct Reports {
  at::Tensor ids, mask;
  std::vector<ReportedRouter> routers;

  Reports(int64_t batch, int64_t length, int64_t layers, uint64_t seed, bool padded = true) {
    at::manual_seed(seed);
    ids = at::randint(0, 50, {batch, length}, at::kLong);
    mask = at::ones({batch, length}, at::kLong);
    if (padded) mask[0][0].fill_(0);
    for (int64_t layer = 0; layer < layers; ++layer) {
      const at::Tensor logits = at::randn({batch * length, kExperts});
      const auto [weights, selected] = at::softmax(logits, 1).topk(2, 1);
      routers.push_back({logits, {}, {selected}, {weights}, -1, "slots"});
    }
  }

  Reports to(at::Device device) const {
    Reports moved = *this;
    moved.ids = ids.to(device);
    moved.mask = mask.to(device);
    for (ReportedRouter& router : moved.routers) {
      router.logits = router.logits.to(device);
      router.selected[0] = router.selected[0].to(device);
      router.weights[0] = router.weights[0].to(device);
    }
    return moved;
  }

  c10::List<std::optional<at::Tensor>> arguments() const { return c10::List<std::optional<at::Tensor>>({ids, mask}); }
};

inline void report(const std::string& model, const Reports& reports) {
  ForwardRecorder recorder(find_binding(model), "forward", reports.arguments());
  for (size_t hook = 0; hook < reports.routers.size(); ++hook) {
    recorder.router(static_cast<int64_t>(hook), reports.routers[hook]);
  }
  recorder.end();
}

inline bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || at::equal(a, b));
}

inline void expect_same_records(const std::vector<ForwardRecord>& actual, const std::vector<ForwardRecord>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    SCOPED_TRACE("forward " + std::to_string(i));
    EXPECT_EQ(actual[i].tokens, expected[i].tokens);
    EXPECT_EQ(actual[i].samples, expected[i].samples);
    EXPECT_EQ(actual[i].out_of_range, expected[i].out_of_range);
    ASSERT_EQ(actual[i].routers.size(), expected[i].routers.size());
    for (size_t r = 0; r < actual[i].routers.size(); ++r) {
      SCOPED_TRACE("router " + std::to_string(r));
      const RouterRecord &a = actual[i].routers[r], &b = expected[i].routers[r];
      EXPECT_EQ(a.hook, b.hook);
      EXPECT_TRUE(same(a.sums.words, b.sums.words));
      EXPECT_TRUE(same(a.selected, b.selected));
      EXPECT_TRUE(same(a.weights, b.weights));
      EXPECT_TRUE(same(a.margins, b.margins));
      // How many forwards the probe is taken from depends on how far the writer is.
      EXPECT_TRUE(!a.logits.defined() || !b.logits.defined() || at::equal(a.logits, b.logits));
      // If nothing of single tokens is recorded, the columns are not copied from the device.
      EXPECT_TRUE(!a.row.defined() || same(a.row, b.row));
      EXPECT_TRUE(!a.position.defined() || same(a.position, b.position));
      EXPECT_TRUE(!a.token_id.defined() || same(a.token_id, b.token_id));
    }
    ASSERT_EQ(actual[i].transitions.size(), expected[i].transitions.size());
    for (size_t t = 0; t < actual[i].transitions.size(); ++t) {
      EXPECT_EQ(actual[i].transitions[t].from_hook, expected[i].transitions[t].from_hook);
      EXPECT_EQ(actual[i].transitions[t].to_hook, expected[i].transitions[t].to_hook);
      EXPECT_TRUE(same(actual[i].transitions[t].sums.counts, expected[i].transitions[t].sums.counts)) << t;
    }
  }
}

class DeviceRecordingTest : public testing::Test {
 protected:
  DeviceRecordingTest() {
    fake_device::install();
    fake_device::set_eager(false);
  }
  ~DeviceRecordingTest() override { fake_device::run_until_idle(); }

  /// Records the same forwards on the CPU and on the device; `report_all` is given the model's text and a device.
  template <typename ReportAll>
  void expect_as_on_the_cpu(const Config& config, int64_t layers, const ReportAll& report_all) {
    RecordedRun on_cpu(config), on_device(config);
    report_all(on_cpu.bind(gates(layers)), at::Device(at::kCPU));
    report_all(on_device.bind(gates(layers)), at::Device(kType, 0));
    const RunningDevice running;
    expect_same_records(on_device.close(), on_cpu.close());
    EXPECT_EQ(on_device.recording->counters().failed_hooks, 0);
    EXPECT_TRUE(on_device.recording->counters().notices.empty());
  }

  const at::NoGradGuard no_gradients_;
};

}  // namespace moetap::plugin
