// Sessions that record attention, killed at random moments: what they leave is recovered, or continued.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "plugin/run/run_recovery.h"
#include "plugin/session.h"
#include "tests/plugin/run/killed_process.h"
#include "tests/plugin/support/run_contents.h"
#include "tests/plugin/support/scripted_attention.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

constexpr int kKills = 6;
constexpr int64_t kForwardsBetweenFlushes = 5;

/// Every second sample has padding on the left. Each forward has two samples, numbered from 0.
void record(const Config& config, int64_t end, const std::function<void(int64_t)>& flushed) {
  const at::NoGradGuard no_gradients;
  Session session(config);
  auto model = session.attach(scripted_transformer());
  for (int64_t i = session.resumed().next_forward; i < end; ++i) {
    at::manual_seed(static_cast<uint64_t>(1000 + i));
    const at::Tensor ids = at::randint(kScriptedVocabulary, {2, 9}, at::kLong), mask = at::ones_like(ids);
    mask[1].narrow(0, 0, i % 5).zero_();
    model.forward({ids, mask});
    if ((i + 1) % kForwardsBetweenFlushes == 0) {
      session.flush();
      flushed(i + 1);
    }
  }
  session.close();
}

class AttentionKill : public ::testing::TestWithParam<Attention> {
 protected:
  AttentionKill() {
    at::set_num_threads(1);
    config_.output_dir = folder_.file("run");
    config_.attention = GetParam();
    config_.dump = Dump::kTopk;
  }

  std::chrono::microseconds life(int64_t longest) {
    return std::chrono::microseconds(static_cast<int64_t>(random_() % static_cast<uint64_t>(longest)));
  }

  /// Of a run with this mode: that it recorded what the comparison is about.
  static void expect_attention(const RunContents& contents, Attention attention) {
    EXPECT_GT(contents.summary.at("attention").at("language_model").at("1").at("rows").get<int64_t>(), 0);
    EXPECT_EQ(contents.dump.contains("language_model.attention"), attention == Attention::kFull);
    EXPECT_EQ(contents.dump.at("language_model").contains("1.attention_stats"), attention == Attention::kStats);
  }

  /// What a process writes that records `forwards` forwards and closes.
  const RunContents& undisturbed(int64_t forwards) {
    const auto known = undisturbed_.find(forwards);
    if (known != undisturbed_.end()) return known->second;
    Config config = config_;
    config.output_dir = folder_.file("undisturbed");
    config.resume = false;
    fs::remove_all(config.output_dir);
    EXPECT_EQ(wait_for(start([&] { record(config, forwards, [](int64_t) {}); })), 0);
    return undisturbed_[forwards] = read_run(config.output_dir);
  }

  TemporaryFolder folder_;
  std::map<int64_t, RunContents> undisturbed_;
  Config config_;
  std::mt19937_64 random_{20241105};
};

TEST_P(AttentionKill, WhatWasFlushedIsRecovered) {
  for (int kill = 0; kill < kKills; ++kill) {
    const int64_t flushed = record_until_killed(record, config_, life(60000));
    ASSERT_EQ(recover_run(config_.output_dir).errors, std::vector<std::string>{}) << "kill " << kill;
    const auto contents = read_run(config_.output_dir);
    const auto forwards = static_cast<int64_t>(contents.log.size()) / 2;
    ASSERT_GE(forwards, flushed) << "kill " << kill;
    ASSERT_EQ(difference(contents, undisturbed(forwards)), "") << "kill " << kill << ", " << forwards;
    expect_attention(contents, GetParam());
    fs::remove_all(config_.output_dir);
  }
}

TEST_P(AttentionKill, ARunThatIsKilledAgainAndAgainIsResumedToItsEnd) {
  config_.resume = true;
  int64_t flushed = 0;
  for (int kill = 0; kill < 3; ++kill) {
    const int64_t now = record_until_killed(record, config_, life(20000));
    ASSERT_GT(now, flushed);
    flushed = now;
  }
  const int64_t end = flushed + 20;
  ASSERT_EQ(wait_for(start([&] { record(config_, end, [](int64_t) {}); })), 0);
  EXPECT_EQ(difference(read_run(config_.output_dir), undisturbed(end)), "");
  expect_attention(read_run(config_.output_dir), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Modes, AttentionKill, ::testing::Values(Attention::kStats, Attention::kFull),
                         [](const auto& info) { return info.param == Attention::kFull ? "full" : "stats"; });

}  // namespace
}  // namespace moetap::plugin
