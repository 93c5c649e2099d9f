#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugin/formats/frame_log.h"
#include "tests/plugin/support/run_contents.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {

inline constexpr int64_t kForwards = 12;

inline std::shared_ptr<ModelDescription> three_layers(const std::string& instance = "instance") {
  return describe({{"language_model", "0"}, {"language_model", "1"}, {"vision_tower", "0"}}, instance);
}

/// Two samples in each forward. The vision tower's tokens cannot be told apart by sample; layer 1 prunes a token in
/// every fourth forward.
inline ForwardRecord forward_number(const std::shared_ptr<ModelDescription>& model, int64_t i) {
  ForwardRecord record = forward_of(model, {2 * i, 2 * i + 1}, 0.25);
  record.index = i;
  record.tokens = 6;
  record.out_of_range = i % 2;
  record.unattributed = 1;
  const at::Tensor valid = at::ones({2, 3}, at::kBool);
  if (i % 4 == 3) valid[1][2] = false;
  record.routers = {observe_router({.hook = 0}, seeded_logits(i, {2, 3, 4})),
                    observe_router({.hook = 1}, seeded_logits(i + 1000, {2, 3, 4}), valid),
                    observe_router({.hook = 2, .attributed = false}, seeded_logits(i + 2000, {1, 5, 4}))};
  record.custom[{"", "0"}]["diver_loss"] = 0.5 + static_cast<double>(i);
  return record;
}

inline Config test_config() {
  Config config;
  config.dump = Dump::kFull;
  config.probe_tokens = 40;
  return config;
}

/// A frame of the journal: its kind, and where in the file it lies, in bytes.
struct PlacedFrame {
  uint32_t kind = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

inline std::vector<PlacedFrame> frames_of(const std::string& path) {
  std::vector<PlacedFrame> placed;
  FrameReader frames(path);
  int64_t begin = 0;
  while (const auto frame = frames.next()) {
    placed.push_back({frame->kind, begin, frames.whole_bytes()});
    begin = frames.whole_bytes();
  }
  return placed;
}

/// A run that processes write and leave, as killed ones do, and that is recovered or resumed.
class KilledRun : public ::testing::Test {
 protected:
  KilledRun() { config_.output_dir = folder_.file("run"); }

  /// Writes the forwards of [begin, end) and leaves everything as a killed process would.
  void write_and_die(int64_t begin, int64_t end, const std::string& instance = "instance") {
    RunFiles files(config_);
    const auto model = three_layers(instance);
    files.add_model(model);
    for (int64_t i = begin; i < end; ++i) files.write(forward_number(model, i));
  }

  /// The files of a run that recorded the first `forwards` forwards and closed.
  const RunContents& undisturbed(int64_t forwards) {
    const auto known = undisturbed_.find(forwards);
    if (known != undisturbed_.end()) return known->second;
    Config config = config_;
    config.output_dir = folder_.file("undisturbed" + std::to_string(forwards));
    config.resume = false;
    RunFiles files(config);
    const auto model = three_layers();
    files.add_model(model);
    Counters counters;
    for (int64_t i = 0; i < forwards; ++i) {
      files.write(forward_number(model, i));
      ++counters.forwards;
    }
    files.close(counters, {});
    return undisturbed_[forwards] = read_run(config.output_dir, config.task);
  }

  std::string run(const std::string& name = "") const { return config_.output_dir + (name.empty() ? "" : "/" + name); }
  std::string journal(const std::string& name) const { return run("moetap/journal/rank0/" + name); }
  std::vector<std::filesystem::path> rows_files() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(journal(""))) {
      if (entry.path().extension() == ".rows") files.push_back(entry.path());
    }
    return files;
  }
  nlohmann::json manifest() const { return parse_file(run("moetap/manifest.json")); }

  void expect_run_of(int64_t forwards) {
    const auto contents = read_run(config_.output_dir, config_.task);
    EXPECT_EQ(contents.log.size(), static_cast<size_t>(2 * forwards));
    EXPECT_EQ(difference(contents, undisturbed(forwards)), "");
    EXPECT_TRUE(std::filesystem::exists(run("rank0_metric_eval_done.txt")));
    EXPECT_FALSE(std::filesystem::exists(run("moetap/journal")));
  }

  TemporaryFolder folder_;
  Config config_ = test_config();
  std::map<int64_t, RunContents> undisturbed_;
};

}  // namespace moetap::plugin
