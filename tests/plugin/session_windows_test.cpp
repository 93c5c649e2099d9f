// Recording only some forwards: pauses, one in N, limits. What is recorded must keep its labels and numbers.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>

#include "plugin/formats/safetensors.h"
#include "plugin/session.h"
#include "tests/plugin/support/recorded_run.h"
#include "tests/plugin/support/scripted_moe.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kLength = 3;

at::Tensor ids_of_sample(int64_t sample) {
  return at::arange(sample * kLength, (sample + 1) * kLength, at::kLong).unsqueeze(0);
}

std::string refusal_of(const Config& config) {
  try {
    const Session session(config);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

class SessionWindowsTest : public ::testing::Test {
 protected:
  Config config() const {
    Config config;
    config.output_dir = folder_.file("run");
    return config;
  }

  void forward(torch::jit::Module& model, int64_t sample) {
    const at::NoGradGuard no_gradients;
    const auto ids = ids_of_sample(sample);
    model.forward({ids, at::ones_like(ids)});
  }

  /// doc_id of the log's entries. Each must hold the experts of the sample that it names.
  std::vector<int64_t> logged_samples() const {
    std::vector<int64_t> samples;
    const auto experts = experts_of_tokens(model_);
    const auto log = parse_file(folder_.file("run/log_metrics.json"));
    for (const auto& entry : log.at("logs")) {
      samples.push_back(entry.at("doc_id").get<int64_t>());
      const auto expected = experts.index_select(0, ids_of_sample(samples.back()).squeeze(0)).reshape({-1});
      const auto& logged = entry.at("/logs_metrics_vision/0/0/0/selected_experts"_json_pointer);
      EXPECT_TRUE(at::equal(at::tensor(logged.get<std::vector<int64_t>>(), at::kLong), expected)) << samples.back();
    }
    return samples;
  }

  TemporaryFolder folder_;
  torch::jit::Module model_ = scripted_moe(100 * kLength);
};

using Samples = std::vector<int64_t>;

TEST_F(SessionWindowsTest, APauseLeavesForwardsOutAndKeepsTheNumbers) {
  Session session(config());
  auto model = session.attach(model_);
  session.resume();  // was not paused
  for (int64_t i = 0; i < 10; ++i) {
    if (i == 3 || i == 4) session.pause();
    if (i == 7) session.resume();
    forward(model, i);
    session.log("0", "place", i);  // of a forward that is left out: lost without a word
  }
  session.close();
  EXPECT_EQ(logged_samples(), (Samples{0, 1, 2, 7, 8, 9}));
  EXPECT_EQ(session.counters().forwards, 6);
  EXPECT_EQ(session.counters().skipped, 4);
  EXPECT_EQ(session.counters().notices, (std::map<std::string, int64_t>{}));
  const auto manifest = parse_file(folder_.file("run/moetap/manifest.json"));
  EXPECT_EQ(manifest.at("/counters/skipped"_json_pointer), 4);
}

TEST_F(SessionWindowsTest, ARunThatIsPausedFromTheStartIsEmpty) {
  Session session(config());
  auto model = session.attach(model_);
  session.pause();
  forward(model, 0);
  session.close();
  EXPECT_EQ(session.counters().forwards, 0);
  EXPECT_EQ(session.counters().skipped, 1);
}

TEST_F(SessionWindowsTest, OneForwardInNIsRecordedUnderItsOwnLabel) {
  for (const bool labels : {false, true}) {
    std::filesystem::remove_all(folder_.file("run"));
    Config every = config();
    every.record_every = 4;
    Session session(every);
    auto model = session.attach(model_);
    for (int64_t i = 0; i < 10; ++i) {
      const int64_t sample = labels ? 90 - i : i;
      if (labels) session.label({{sample}, false});
      forward(model, sample);
    }
    session.close();
    EXPECT_EQ(logged_samples(), labels ? (Samples{82, 86, 90}) : (Samples{0, 4, 8}));
    EXPECT_EQ(session.counters().forwards, 3);
    EXPECT_EQ(session.counters().skipped, 7);
  }
}

TEST_F(SessionWindowsTest, TheNumberOfAForwardCountsThoseThatAreLeftOut) {
  Config every = config();
  every.record_every = 3;
  every.dump = Dump::kIds;
  Session session(every);
  auto model = session.attach(model_);
  for (int64_t i = 0; i < 7; ++i) forward(model, i);
  session.close();
  const auto shard = read_safetensors(folder_.file("run/moetap/dump/rank0/language_model-000000.safetensors"));
  const auto expected = at::tensor({0, 0, 0, 3, 3, 3, 6, 6, 6}, at::kLong);
  EXPECT_TRUE(at::equal(shard.tensors.at("forward"), expected));
  EXPECT_TRUE(at::equal(shard.tensors.at("sample"), expected));
}

TEST_F(SessionWindowsTest, RecordingEndsAfterMaxForwards) {
  Config limited = config();
  limited.max_forwards = 3;
  Session session(limited);
  auto model = session.attach(model_);
  for (int64_t i = 0; i < 10; ++i) forward(model, i);
  session.close();
  EXPECT_EQ(logged_samples(), (Samples{0, 1, 2}));
  EXPECT_EQ(session.counters().forwards, 3);
  EXPECT_EQ(session.counters().skipped, 7);
  EXPECT_EQ(session.counters().notices.at("max_forwards is reached: recording ends, the model runs on"), 1);
}

TEST_F(SessionWindowsTest, RecordingEndsAfterMaxBytes) {
  Config limited = config();
  limited.dump = Dump::kTopk;
  limited.max_bytes = 20'000;
  Session session(limited);
  auto model = session.attach(model_);
  int64_t recorded = 0;
  for (int64_t i = 0; i < 90; ++i) {
    forward(model, i);
    session.flush();  // so that the limit is known at once
    if (session.counters().skipped == 0) recorded = i + 1;
  }
  session.close();
  EXPECT_GT(recorded, 3);
  EXPECT_LT(recorded, 80);
  EXPECT_EQ(session.counters().forwards, recorded);
  EXPECT_EQ(session.counters().skipped, 90 - recorded);
  EXPECT_EQ(static_cast<int64_t>(logged_samples().size()), recorded);
  EXPECT_EQ(session.counters().notices.at("max_bytes is reached: recording ends, the model runs on"), 1);
}

TEST_F(SessionWindowsTest, EveryZerothForwardIsRefused) {
  Config wrong = config();
  wrong.record_every = 0;
  EXPECT_EQ(refusal_of(wrong), "record_every must be at least 1, got 0");
}

TEST_F(SessionWindowsTest, SumsAloneTellNothingOfSingleTokens) {
  Config sums = config();
  sums.privacy = Privacy::kSums;
  EXPECT_EQ(refusal_of(sums), "privacy is sums: log_per_token must be false");
  sums.log_per_token = false;
  sums.dump = Dump::kIds;
  EXPECT_EQ(refusal_of(sums), "privacy is sums: dump must be none");
  sums.dump = Dump::kNone;
  sums.attention = Attention::kFull;
  EXPECT_EQ(refusal_of(sums), "privacy is sums: attention must be off or stats");
  sums.attention = Attention::kOff;
  Session session(sums);
  auto model = session.attach(model_);
  forward(model, 5);
  session.flush();
  // Not even in the journal of a run that is killed.
  const std::string journal = read_text_file(folder_.file("run/moetap/journal/rank0/forwards.frames"));
  EXPECT_EQ(journal.find("router_magine"), std::string::npos);
  session.close();
  EXPECT_FALSE(std::filesystem::exists(folder_.file("run/moetap/probe.safetensors")));
  EXPECT_EQ(parse_file(folder_.file("run/moetap/summary.json")).at("/components/language_model/0/tokens"_json_pointer),
            kLength);
}

TEST_F(SessionWindowsTest, FilesThatTellTokensAreTheOwnersAlone) {
  Config dumped = config();
  dumped.dump = Dump::kTopk;
  Session session(dumped);
  auto model = session.attach(model_);
  forward(model, 0);
  session.flush();
  const auto mode = [&](const char* file) {
    return static_cast<unsigned>(std::filesystem::status(folder_.file(file)).permissions());
  };
  EXPECT_EQ(mode("run/moetap/journal/rank0/forwards.frames"), 0600u);
  session.close();
  EXPECT_EQ(mode("run/log_metrics.json"), 0600u);
  EXPECT_EQ(mode("run/moetap/dump/rank0/language_model-000000.safetensors"), 0600u);
}

}  // namespace
}  // namespace moetap::plugin
