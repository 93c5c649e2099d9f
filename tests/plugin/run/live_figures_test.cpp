#include "plugin/run/live_figures.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "plugin/session.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/recorded_run.h"
#include "tests/plugin/support/scripted_moe.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

RunFigures after(int64_t forwards) {
  RunFigures figures;
  figures.counters.forwards = forwards;
  figures.layers = {{"language_model", "0", {12, 0.25, 1.5, 2, 0}}};
  return figures;
}

class LiveFiguresTest : public ::testing::Test {
 protected:
  Config config(int64_t interval) const {
    Config config;
    config.metrics_file = folder_.file("moetap.prom");
    config.tensorboard_dir = folder_.file("board");
    config.metrics_interval = interval;
    return config;
  }
  int64_t event_files() const {
    return std::distance(fs::directory_iterator(folder_.file("board")), fs::directory_iterator());
  }

  TemporaryFolder folder_;
};

TEST_F(LiveFiguresTest, AreDueOnceInTheIntervalAndOnlyForSomethingNew) {
  LiveFigures figures(config(3600), {});
  EXPECT_FALSE(figures.due(0));
  ASSERT_TRUE(figures.due(1));
  EXPECT_LE(*figures.due(1), LiveFigures::Clock::now());
  figures.write(after(1));
  EXPECT_FALSE(figures.due(1));
  ASSERT_TRUE(figures.due(2));
  EXPECT_GT(*figures.due(2), LiveFigures::Clock::now() + std::chrono::minutes(59));
  figures.write(after(2));
  EXPECT_NE(
      read_text_file(folder_.file("moetap.prom")).find("moetap_forwards_total{task=\"log_metrics\",rank=\"0\"} 2\n"),
      std::string::npos);
  EXPECT_EQ(event_files(), 1);
}

TEST_F(LiveFiguresTest, NobodyWantsThemByDefault) {
  const LiveFigures figures(Config(), {});
  EXPECT_FALSE(figures.wanted());
  EXPECT_FALSE(figures.due(1));
}

TEST_F(LiveFiguresTest, AFileThatCannotBeWrittenIsGivenUpAndTheOtherIsNot) {
  Config wrong = config(0);
  wrong.metrics_file = folder_.file("missing/moetap.prom");
  LiveFigures figures(wrong, {});
  EXPECT_NE(error_of([&] { figures.write(after(1)); }).find("cannot write " + wrong.metrics_file), std::string::npos);
  figures.write(after(2));
  EXPECT_EQ(event_files(), 1);
}

TEST_F(LiveFiguresTest, EachRankHasItsFile) {
  EXPECT_EQ(file_of_rank("/a/moetap.prom", 0), "/a/moetap.prom");
  EXPECT_EQ(file_of_rank("/a/moetap.prom", 3), "/a/moetap.rank3.prom");
  EXPECT_EQ(file_of_rank("", 3), "");
}

// While the host is idle, too: the figures of its last forwards must not wait for the next one.
TEST_F(LiveFiguresTest, ARunShowsItsFiguresWhileItGoesOn) {
  Config live = config(1);
  live.output_dir = folder_.file("run");
  const auto model = scripted_moe(60);
  Session session(live);
  auto recorded = session.attach(model);
  const auto forward = [&] {
    const at::NoGradGuard no_gradients;
    const auto ids = at::arange(3, at::kLong).unsqueeze(0);
    recorded.forward({ids, at::ones_like(ids)});
  };
  const auto tokens_shown = [&](int64_t tokens) {
    const std::string wanted = fmt::format(
        "moetap_router_tokens{{task=\"log_metrics\",rank=\"0\",component=\"language_model\",layer=\"0\"}} {}\n",
        tokens);
    for (int i = 0; i < 1500; ++i) {  // some seconds; up to 15 on a busy machine
      if (fs::exists(live.metrics_file) && read_text_file(live.metrics_file).find(wanted) != std::string::npos)
        return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  };
  forward();
  EXPECT_TRUE(tokens_shown(3));
  forward();
  forward();
  EXPECT_TRUE(tokens_shown(9));
  session.close();
  EXPECT_TRUE(tokens_shown(9));
}

}  // namespace
}  // namespace moetap::plugin
