#include "plugin/session/host_values.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include "plugin/session/forward_recorder.h"
#include "tests/plugin/support/recorded_run.h"

namespace moetap::plugin {
namespace {

std::shared_ptr<ForwardRecorder> begin(RecordedRun& run) {
  return std::make_shared<ForwardRecorder>(ModelRegistry::get().find(run.bind(gates(1))), "forward",
                                           c10::List<std::optional<at::Tensor>>());
}

TEST(HostValues, GoToTheThreadsLastForward) {
  RecordedRun run;
  HostThreads& threads = run.recording->threads();
  threads.log("0", "before", int64_t{1});
  const auto first = begin(run);
  threads.log("0", "in", true);
  first->end();
  threads.log("0", "after", 0.5);
  begin(run)->end();
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 3u);
  const std::map<std::string, CustomValue> first_values = {{"before", int64_t{1}}, {"in", true}};
  const std::map<std::string, CustomValue> after = {{"after", 0.5}};
  EXPECT_EQ(records[0].custom.at({"", "0"}), first_values);
  EXPECT_TRUE(records[1].values_only);
  EXPECT_EQ(records[1].samples, records[0].samples);
  EXPECT_EQ(records[1].custom.at({"", "0"}), after);
  EXPECT_TRUE(records[2].custom.empty());
  EXPECT_EQ(run.collected->counters.forwards, 2);
}

TEST(HostValues, OfAForwardThatThrewAreLostAndSaid) {
  RecordedRun run;
  begin(run).reset();
  testing::internal::CaptureStderr();
  run.recording->threads().log("0", "x", 1.0);
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(
      run.recording->counters().notices.count("a value was logged for a forward that was not recorded: it is lost"),
      1u);
  EXPECT_TRUE(run.close().empty());
}

TEST(HostValues, EachThreadHasItsOwn) {
  HostThreads threads, others;
  threads.label({{7}, false});
  EXPECT_FALSE(others.this_thread().label);
  std::thread([&] { EXPECT_FALSE(threads.this_thread().label); }).join();
  ASSERT_TRUE(threads.this_thread().label);
  EXPECT_EQ(threads.this_thread().label->samples, std::vector<int64_t>{7});
  threads.clear_label();
  EXPECT_FALSE(threads.this_thread().label);
}

TEST(HostValues, RefusesWhatCannotBe) {
  HostThreads threads;
  EXPECT_THROW(threads.label({}), std::invalid_argument);
  EXPECT_THROW(threads.label({{-1}, false}), std::invalid_argument);
  EXPECT_THROW(threads.log("layer 0", "x", 1.0), std::invalid_argument);
  EXPECT_THROW(threads.log("0", "", 1.0), std::invalid_argument);
  EXPECT_NO_THROW(threads.log("mm_projector", "x", 1.0));
}

}  // namespace
}  // namespace moetap::plugin
