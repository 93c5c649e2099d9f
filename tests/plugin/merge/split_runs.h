#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "plugin/formats/frame_log.h"
#include "plugin/run/run_files.h"
#include "plugin/run/run_sums.h"
#include "tests/plugin/support/synthetic_attention.h"
#include "tests/plugin/support/synthetic_forward.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {

/// A forward of a script: step `step` of the two samples of a group. Step 0 is their prompt, the others generate.
struct Step {
  int64_t group = 0;
  int64_t step = 0;
};
using Steps = std::vector<Step>;

/// Three routers of text, of which layer 1 sees fewer tokens in some forwards and layer 2 runs twice in some; a tower
/// whose tokens cannot be told apart by sample; an attention layer beside layer 0.
inline std::shared_ptr<ModelDescription> split_model(const std::string& instance = "instance") {
  auto model = describe(
      {{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}, {"vision_tower", "0"}}, instance);
  model->identity = "identity";
  add_attention_hooks(*model, {{"language_model", "0"}});
  return model;
}

/// Always the same for the same step. `index` is that of the run that records it.
inline ForwardRecord record_of(const std::shared_ptr<ModelDescription>& model, const Step& step, int64_t index) {
  const int64_t seed = step.group * 1000 + step.step;
  const int64_t length = step.step == 0 ? 3 + step.group % 3 : 1;
  ForwardRecord record = forward_of(model, {2 * step.group, 2 * step.group + 1}, 0.25);
  record.index = index;
  record.generation = step.step > 0;
  record.tokens = 2 * length;
  record.out_of_range = step.group % 2;
  at::Tensor valid = at::ones({2, length}, at::kBool);
  if (step.step == 0 && step.group % 4 == 3) valid[1][length - 1] = false;
  record.routers = {observe_router({.hook = 0}, seeded_logits(seed, {2, length, 4})),
                    observe_router({.hook = 1}, seeded_logits(seed + 100, {2, length, 4}), valid),
                    observe_router({.hook = 2}, seeded_logits(seed + 200, {2, length, 4}))};
  if (step.group % 5 == 4) {
    record.routers.push_back(observe_router({.hook = 2, .call = 1}, seeded_logits(seed + 300, {2, length, 4})));
  }
  if (step.step == 0) {
    record.routers.push_back(observe_router({.hook = 3, .attributed = false}, seeded_logits(seed + 400, {1, 5, 4})));
  }
  for (const size_t router : {0, 1, 3}) {  // layer 2 reports none
    if (router >= record.routers.size()) continue;
    RouterRecord& of = record.routers[router];
    of.input = seeded_logits(seed + 600, {of.selected.size(0), 3}).to(at::kBFloat16);
  }
  const auto first = [](const RouterRecord& router) { return router.selected.select(1, 0).contiguous(); };
  if (record.routers[0].selected.sizes() == record.routers[2].selected.sizes()) {
    record.transitions = {
        {0, 2, analysis::observe_transition(first(record.routers[0]), first(record.routers[2]), {}, 4, 4)}};
  }
  AttentionRecord attention =
      observe_attention({.hook = 4, .matrix = true}, seeded_probabilities(seed, 2, length), &record.routers[0]);
  attention.values = seeded_logits(seed + 500, {2 * length, 2});
  attention.value_names = {"entropy", "self"};
  attention.row = record.routers[0].row;
  attention.position = record.routers[0].position;
  record.attention.push_back(std::move(attention));
  record.custom[{"", "0"}]["diver_loss"] = 0.5 + static_cast<double>(seed);
  return record;
}

inline Config split_config() {
  Config config;
  config.dump = Dump::kFull;
  config.dump_router_input = true;
  config.attention = Attention::kFull;
  config.probe_tokens = 30;
  return config;
}

/// Runs of a script, and the bytes of their files.
class SplitRuns : public ::testing::Test {
 protected:
  ~SplitRuns() override { set_rank(0, 1); }

  /// All steps of `groups` groups; `shuffled`: groups take turns at random, else one comes after the other.
  static Steps script(int64_t groups, bool shuffled, uint32_t seed = 1) {
    std::vector<int64_t> turns;
    for (int64_t group = 0; group < groups; ++group)
      turns.insert(turns.end(), static_cast<size_t>(2 + group % 3), group);
    if (shuffled) {
      std::mt19937 random(seed);
      std::shuffle(turns.begin(), turns.end(), random);
    }
    std::map<int64_t, int64_t> next;
    Steps steps;
    for (const int64_t group : turns) steps.push_back({group, next[group]++});
    return steps;
  }

  /// The script's steps of some groups, in its order; `part_of` chooses by group.
  template <typename PartOf>
  static std::vector<Steps> split(const Steps& steps, size_t parts, const PartOf& part_of) {
    std::vector<Steps> split(parts);
    for (const Step& step : steps) split.at(part_of(step.group)).push_back(step);
    return split;
  }

  static void set_rank(int64_t rank, int64_t world_size) {
    ::setenv("RANK", std::to_string(rank).c_str(), 1);
    ::setenv("WORLD_SIZE", std::to_string(world_size).c_str(), 1);
  }

  /// Records the steps as a rank of the run `name`; returns its directory.
  std::string write(const std::string& name, const Steps& steps, int64_t rank = 0, int64_t world_size = 1) {
    set_rank(rank, world_size);
    Config config = config_;
    config.output_dir = folder_.file(name);
    RunFiles files(config);
    const auto model = split_model(instance_);
    files.add_model(model);
    Counters counters;
    for (const Step& step : steps) {
      files.write(record_of(model, step, counters.forwards++));
      counters.tokens += step.step == 0 ? 2 * (3 + step.group % 3) : 2;
    }
    counters.called_hooks = 5;
    files.close(counters, {});
    set_rank(0, 1);
    return config.output_dir;
  }

  std::string out(const std::string& name) const { return folder_.file(name); }

  TemporaryFolder folder_;
  Config config_ = split_config();
  std::string instance_ = "instance";
};

/// JSON text without the values of "time" and "time_inference".
inline std::string without_times(const std::string& text) {
  std::string kept;
  size_t begin = 0;
  for (size_t found = text.find("\"time"); found != std::string::npos; found = text.find("\"time", begin)) {
    const size_t colon = text.find(':', found);
    kept += text.substr(begin, colon - begin);
    begin = text.find_first_of(",}", colon);
  }
  return kept + text.substr(begin);
}

/// The bytes of all files of a run, by path, without times and without the directory's own name.
inline std::map<std::string, std::string> bytes_of_run(const std::string& run) {
  namespace fs = std::filesystem;
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(run)) {
    if (!entry.is_regular_file()) continue;
    const std::string path = fs::relative(entry.path(), run).string();
    std::string bytes = read_text_file(entry.path().string());
    if (path.ends_with("manifest.json")) {
      auto json = nlohmann::ordered_json::parse(bytes);
      json.erase("times");
      json.at("config").erase("output_dir");
      bytes = json.dump();
    } else if (path.ends_with("sums.frames")) {
      bytes.clear();
      FrameReader frames(entry.path().string());
      while (const auto frame = frames.next()) {
        if (frame->kind == kRunStarted || frame->kind == kRunEnded) continue;
        bytes += std::to_string(frame->kind) + ":" + frame->payload + "\n";
      }
    } else if (path.ends_with(".json")) {
      bytes = without_times(bytes);
    }
    files[path] = std::move(bytes);
  }
  return files;
}

/// The first file that differs; empty: none does.
inline std::string first_difference(const std::map<std::string, std::string>& a,
                                    const std::map<std::string, std::string>& b) {
  for (const auto* side : {&a, &b}) {
    for (const auto& [path, bytes] : *side) {
      if (!a.contains(path) || !b.contains(path)) return path + " is in one of them";
    }
  }
  for (const auto& [path, bytes] : a) {
    if (bytes == b.at(path)) continue;
    size_t place = 0;
    while (place < std::min(bytes.size(), b.at(path).size()) && bytes[place] == b.at(path)[place]) ++place;
    const size_t begin = place < 60 ? 0 : place - 60;
    return path + " differs at byte " + std::to_string(place) + ": " + bytes.substr(begin, 160) + "\n" +
           b.at(path).substr(begin, 160);
  }
  return "";
}

}  // namespace moetap::plugin
