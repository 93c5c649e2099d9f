// Runs and ranks that are merged are the undivided run, to the last bit.
#include "plugin/merge/merge_runs.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "plugin/dump/dump_reader.h"
#include "plugin/formats/safetensors.h"
#include "plugin/run/run_losses.h"
#include "plugin/run/run_reader.h"
#include "plugin/run/run_recovery.h"
#include "tests/plugin/merge/split_runs.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/file_size_limit.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kGroups = 13;

class MergeRuns : public SplitRuns {
 protected:
  /// Merges into a new directory and returns its files.
  std::map<std::string, std::string> merged(const std::vector<std::string>& runs, const MergeOptions& options = {}) {
    const std::string output = out("merged" + std::to_string(number_++));
    const MergedRun result = merge_runs(runs, output, options);
    EXPECT_EQ(result.missing, std::vector<std::string>{});
    return bytes_of_run(output);
  }
  /// A session writes what describes the run between what its forwards gave, a merge before it.
  static std::map<std::string, std::string> without_sums(std::map<std::string, std::string> files) {
    files.erase("moetap/sums.frames");
    return files;
  }
  std::string last_output() const { return out("merged" + std::to_string(number_ - 1)); }

  std::string error(const std::vector<std::string>& runs, const MergeOptions& options = {}) {
    const std::string output = out("refused");
    const std::string message = error_of([&] { merge_runs(runs, output, options); });
    EXPECT_FALSE(fs::exists(output));
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
    }
    return message;
  }

 private:
  int number_ = 0;
};

TEST_F(MergeRuns, AnySplitInAnyOrderIsTheUndividedRun) {
  const Steps steps = script(kGroups, /*shuffled=*/false);
  const std::string whole = write("whole", steps);
  const auto expected = merged({whole});
  // Its forwards came in the order of their samples: the files are those that the run wrote itself.
  EXPECT_EQ(first_difference(without_sums(expected), without_sums(bytes_of_run(whole))), "");
  std::mt19937 random(7);
  for (int trial = 0; trial < 4; ++trial) {
    const size_t parts = 2 + random() % 4;
    std::vector<size_t> part_of_group;
    for (int64_t group = 0; group < kGroups; ++group) part_of_group.push_back(random() % parts);
    const auto split =
        SplitRuns::split(steps, parts, [&](int64_t group) { return part_of_group[static_cast<size_t>(group)]; });
    std::vector<std::string> runs;
    for (size_t i = 0; i < parts; ++i) {
      if (!split[i].empty()) runs.push_back(write("part" + std::to_string(trial) + std::to_string(i), split[i]));
    }
    std::shuffle(runs.begin(), runs.end(), random);
    ASSERT_EQ(first_difference(merged(runs), expected), "") << "trial " << trial;
  }
}

TEST_F(MergeRuns, RanksOfOneRunAreTheUndividedRun) {
  const Steps steps = script(kGroups, /*shuffled=*/false);
  const auto expected = merged({write("whole", steps)});
  for (const size_t ranks : {2, 4}) {
    const auto parts = split(steps, ranks, [&](int64_t group) { return static_cast<size_t>(group) % ranks; });
    std::string run;
    for (size_t rank = 0; rank < ranks; ++rank) {
      run =
          write("ranks" + std::to_string(ranks), parts[rank], static_cast<int64_t>(rank), static_cast<int64_t>(ranks));
    }
    ASSERT_EQ(first_difference(merged({run}), expected), "") << ranks << " ranks";
  }
}

TEST_F(MergeRuns, ForwardsThatTakeTurnsAreOrderedBySample) {
  const Steps steps = script(kGroups, /*shuffled=*/true);
  // The probe keeps the tokens that came first, in each part: it is the one thing that depends on the split here.
  config_.probe_tokens = 0;
  const auto expected = merged({write("whole", steps)});
  const auto parts = split(steps, 3, [](int64_t group) { return static_cast<size_t>(group * 7 % 3); });
  std::vector<std::string> runs;
  for (size_t i = 0; i < parts.size(); ++i) runs.push_back(write("part" + std::to_string(i), parts[i]));
  EXPECT_EQ(first_difference(merged({runs[2], runs[0], runs[1]}), expected), "");
  // A merged run can be merged again.
  merged({runs[1], runs[2]});
  EXPECT_EQ(first_difference(merged({last_output(), runs[0]}), expected), "");
  // It is the run whose forwards came in that order.
  const std::string ordered = write("ordered", script(kGroups, /*shuffled=*/false));
  EXPECT_EQ(first_difference(without_sums(expected), without_sums(bytes_of_run(ordered))), "");
}

TEST_F(MergeRuns, OneEntryAForwardIsNumberedBySamples) {
  config_.log_entries = LogEntries::kForward;
  config_.dump = Dump::kIds;
  config_.attention = Attention::kStats;
  const Steps steps = script(kGroups, /*shuffled=*/false);
  const auto expected = merged({write("whole", steps)});
  EXPECT_EQ(first_difference(without_sums(expected), without_sums(bytes_of_run(out("whole")))), "");
  const auto parts = split(steps, 2, [](int64_t group) { return static_cast<size_t>(group % 2); });
  EXPECT_EQ(first_difference(merged({write("b", parts[1]), write("a", parts[0])}), expected), "");
}

TEST_F(MergeRuns, ModelsThatWereAttachedTwiceAreOneModel) {
  const Steps steps = script(6, /*shuffled=*/false);
  const auto expected = merged({write("whole", steps)});
  const auto parts = split(steps, 2, [](int64_t group) { return static_cast<size_t>(group % 2); });
  const std::string first = write("first", parts[0]);
  instance_ = "another instance";
  // sums.frames names the instances.
  const auto found = merged({first, write("second", parts[1])});
  EXPECT_EQ(first_difference(without_sums(found), without_sums(expected)), "");
}

TEST_F(MergeRuns, RelabelNumbersSamplesOn) {
  const Steps steps = script(9, /*shuffled=*/false);
  const auto expected = merged({write("whole", steps)});
  // The second run counts its samples from 0, as moetap run does. Its numbers are those of other inputs, so what it
  // recorded is that of groups 0 to 4; only the numbers are compared.
  const std::string first = write("first", script(4, false));
  const std::string second = write("second", script(5, false));
  EXPECT_NE(error({first, second}).find("sample 0 is in " + first + " and in " + second + ", as are 7 more"),
            std::string::npos);
  merged({first, second}, {.relabel = true});
  const auto log = parse_file(last_output() + "/log_metrics.json").at("logs");
  ASSERT_EQ(log.size(), 18u);
  for (size_t i = 0; i < log.size(); ++i) EXPECT_EQ(log[i].at("doc_id"), i);
  std::vector<std::string> damage;
  const DumpSeriesReader rows(last_output() + "/moetap/dump/rank0", "language_model.1", 0, damage);
  std::vector<int64_t> samples(static_cast<size_t>(rows.num_rows()));
  rows.read_integers("sample", 0, rows.num_rows(), samples.data());
  EXPECT_EQ(*std::max_element(samples.begin(), samples.end()), 17);
  EXPECT_TRUE(std::is_sorted(samples.begin(), samples.end(), [](int64_t a, int64_t b) { return a / 2 < b / 2; }));
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(last_output() + "/moetap/dump/rank0")) {
    if (entry.path().filename().string().find(".attention-") == std::string::npos) continue;
    for (const auto& [name, matrix] : read_safetensors(entry.path().string()).tensors) names.insert(name);
  }
  EXPECT_TRUE(names.contains("0/0/0") && names.contains("0/17/0") && !names.contains("0/18/0"));
}

TEST_F(MergeRuns, WhatDoesNotFitIsRefusedByName) {
  const Steps steps = script(4, false);
  const auto parts = split(steps, 2, [](int64_t group) { return static_cast<size_t>(group % 2); });
  const std::string first = write("first", parts[0]);
  config_.dump = Dump::kTopk;
  const std::string other_config = write("other_config", parts[1]);
  EXPECT_NE(
      error({first, other_config}).find("key \"dump\" is \"full\" in " + first + " and \"topk\" in " + other_config),
      std::string::npos);
  config_ = split_config();
  config_.queue_bytes = 1 << 20;  // does not change what is recorded
  const std::string same = write("same", parts[1]);
  merged({first, same});
  EXPECT_NE(error({first, first}).find("is named twice"), std::string::npos);
  EXPECT_NE(error({first, folder_.file("nothing")}).find("there is no such directory"), std::string::npos);
  fs::create_directories(out("taken/something"));
  EXPECT_NE(error_of([&] { merge_runs({first}, out("taken")); }).find("is there already"), std::string::npos);
  {
    set_rank(0, 1);
    Config config = config_;
    config.output_dir = folder_.file("other_model");
    RunFiles files(config);
    auto model = split_model("third");
    model->identity = "another";
    model->sha256 = "cd34";
    files.add_model(model);
    files.write(record_of(model, {40, 0}, 0));
    files.close({}, {});
    EXPECT_NE(error({first, config.output_dir}).find("(SHA-256 cd34): runs of different models"), std::string::npos);
  }
  fs::remove(first + "/moetap/sums.frames");
  EXPECT_NE(error({first}).find("keeps no sums"), std::string::npos);
}

TEST_F(MergeRuns, ARankThatDiedIsNamed) {
  const Steps steps = script(6, false);
  const auto parts = split(steps, 3, [](int64_t group) { return static_cast<size_t>(group % 3); });
  const std::string run = write("run", parts[0], 0, 3);
  write("run", parts[1], 1, 3);
  EXPECT_NE(
      error({run}).find(run + ": rank 2 of 3 did not finish; if its process died, complete it with moetap recover"),
      std::string::npos);
  {
    set_rank(2, 3);  // dies while it records
    Config config = config_;
    config.output_dir = run;
    RunFiles files(config);
    const auto model = split_model();
    files.add_model(model);
    int64_t index = 0;
    for (const Step& step : parts[2]) files.write(record_of(model, step, index++));
    set_rank(0, 1);
  }
  EXPECT_NE(error({run}).find("rank 2 of 3 did not finish"), std::string::npos);
  const MergedRun some = merge_runs({run}, out("some"), {.allow_missing = true});
  ASSERT_EQ(some.missing.size(), 1u);
  EXPECT_NE(some.missing[0].find("rank 2 of 3 did not finish: it is not in the merged run"), std::string::npos);
  EXPECT_TRUE(parse_file(out("some/moetap/manifest.json")).at("notices").contains(some.missing[0]));
  EXPECT_EQ(parse_file(out("some/moetap/manifest.json")).at("missing"), nlohmann::json(some.missing));
  ASSERT_EQ(run_losses(out("some")).size(), 1u);
  EXPECT_EQ(run_losses(out("some"))[0], out("some") + ": merged without all of it: " + some.missing[0]);
  merge_runs({out("some")}, out("again"), {});  // what is not there is known to whoever merges it on
  EXPECT_EQ(parse_file(out("again/moetap/manifest.json")).at("missing"), nlohmann::json(some.missing));
  ASSERT_EQ(recover_run(run).errors, std::vector<std::string>{});
  const auto recovered = merged({run});
  auto expected = merged({write("whole", steps)});
  const auto manifest = parse_file(out("merged0/moetap/manifest.json"));
  EXPECT_EQ(manifest.at("recovered"), true);
  EXPECT_EQ(manifest.at("lost").at("forwards"), 0);
  EXPECT_FALSE(manifest.contains("missing"));
  EXPECT_EQ(run_losses(out("merged0")), std::vector<std::string>{});
  for (auto files : {&expected}) files->erase("moetap/manifest.json");
  auto without_manifest = recovered;
  without_manifest.erase("moetap/manifest.json");
  EXPECT_EQ(first_difference(without_manifest, expected), "");
}

TEST_F(MergeRuns, DamagedFilesAreNamed) {
  const std::string run = write("run", script(6, false));
  std::string shard;  // the last one of its series
  for (const auto& entry : fs::directory_iterator(run + "/moetap/dump/rank0")) {
    if (entry.path().string().find("language_model.1-") != std::string::npos)
      shard = std::max(shard, entry.path().string());
  }
  const std::string bytes = read_text_file(shard);
  write_text_file(shard, bytes.substr(0, bytes.size() - 10));
  EXPECT_NE(error({run}).find(shard), std::string::npos);
  const MergedRun some = merge_runs({run}, out("some"), {.allow_missing = true});
  ASSERT_FALSE(some.missing.empty());
  EXPECT_NE(some.missing[0].find(shard), std::string::npos);
  fs::remove(shard);  // only the run's own count tells that it is missing
  const std::string missing = error({run});
  EXPECT_NE(missing.find("rows of language_model.1 are missing at its end"), std::string::npos) << missing;
  write_text_file(shard, bytes);
  merged({run});

  const std::string sums = run + "/moetap/sums.frames";
  const std::string whole = read_text_file(sums);
  for (const size_t place : {size_t{30}, whole.size() / 2, whole.size() - 3}) {
    std::string flipped = whole;
    flipped[place] ^= 1;
    write_text_file(sums, flipped);
    EXPECT_NE(error({run}).find("sums.frames"), std::string::npos) << "byte " << place;
  }
  write_text_file(sums, whole);
  const std::string log = run + "/log_metrics.json";
  std::string text = read_text_file(log);
  text.erase(text.find("\n{\"doc_id\":3,"), 1);
  write_text_file(log, text);
  EXPECT_NE(error({run}).find("log_metrics.json"), std::string::npos);
}

TEST_F(MergeRuns, AFullDiskLeavesNothing) {
  const auto parts = split(script(kGroups, false), 2, [](int64_t group) { return static_cast<size_t>(group % 2); });
  const std::vector<std::string> runs = {write("first", parts[0]), write("second", parts[1])};
  const auto expected = merged(runs);
  std::set<std::string> reasons;
  for (const rlim_t bytes : {100, 2000, 6000, 20000}) {
    const FileSizeLimit limit(bytes);
    reasons.insert(error(runs));
  }
  EXPECT_FALSE(reasons.contains(""));
  for (const std::string& reason : reasons) EXPECT_NE(reason.find("cannot write"), std::string::npos) << reason;
  EXPECT_EQ(first_difference(merged(runs), expected), "");
}

TEST_F(MergeRuns, LayersThatWouldChangeTheirNumbersAreRefused) {
  // Two models that both want layer 0: each run alone gives it to its own.
  const auto write_model = [&](const std::string& name, const std::vector<std::string>& models, int64_t sample) {
    Config config;
    config.dump = Dump::kIds;
    config.output_dir = folder_.file(name);
    RunFiles files(config);
    int64_t index = 0;
    std::vector<std::shared_ptr<ModelDescription>> described;
    for (const std::string& identity : {std::string("a"), std::string("b")}) {
      described.push_back(describe({{"language_model", "0"}}, identity));
      described.back()->identity = identity;
      described.back()->hooks[0].name = "gate of " + identity;
      files.add_model(described.back());
    }
    for (const std::string& identity : models) {
      const auto& model = described[identity == "a" ? 0 : 1];
      ForwardRecord record = forward_of(model, {sample++});
      record.index = index++;
      record.routers = {observe_router({.hook = 0}, seeded_logits(sample, {1, 3, 4}))};
      files.write(record);
    }
    files.close({}, {});
    return config.output_dir;
  };
  const std::string first = write_model("first", {"a", "b"}, 0);
  const std::string second = write_model("second", {"b", "a"}, 10);
  EXPECT_NE(error({first, second}).find(second + ": layer 0 of language_model (gate of b) would be layer 1"),
            std::string::npos);
}

TEST_F(MergeRuns, AMergedRunIsReadAsAnyOther) {
  const auto parts = split(script(6, false), 2, [](int64_t group) { return static_cast<size_t>(group % 2); });
  merged({write("first", parts[0]), write("second", parts[1])});
  const RunReader reader(last_output());
  EXPECT_EQ(reader.ranks(), std::vector<int64_t>{0});
  EXPECT_EQ(reader.components().at("language_model").size(), 3u);
  const RunRecovery recovery = recover_run(last_output());
  EXPECT_TRUE(recovery.ranks.empty() && recovery.errors.empty());
}

}  // namespace
}  // namespace moetap::plugin
