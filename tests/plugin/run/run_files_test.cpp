#include "plugin/run/run_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <map>
#include <set>

#include "analysis/routers/router_metrics.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/transition_sums.h"
#include "plugin/formats/frame_log.h"
#include "plugin/formats/safetensors.h"
#include "plugin/journal/run_journal.h"
#include "plugin/process/notices.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/file_size_limit.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;

TEST(RunFilesTest, ARunDirectoryHoldsWhatReadersExpectAndNothingElse) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  Config config;
  config.task = "mme";
  config.dump = Dump::kTopk;
  SyntheticRun run(config);
  Counters counters;
  counters.forwards = 1;
  counters.tokens = 6;
  counters.notices["something to know"] = 2;
  run.write(model, {two_layers(model, 1, {0, 1})}, counters);

  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(run.config().output_dir)) {
    if (entry.is_regular_file())
      names.insert(std::filesystem::relative(entry.path(), run.config().output_dir).string());
  }
  EXPECT_EQ(names,
            (std::set<std::string>{"mme.json", "results.json", "rank0_metric_eval_done.txt", "moetap/manifest.json",
                                   "moetap/summary.json", "moetap/probe.safetensors", "moetap/sums.frames",
                                   "moetap/dump/rank0/language_model-000000.safetensors"}));
  EXPECT_FALSE(std::filesystem::exists(run.path("moetap/journal")));
  EXPECT_EQ(read_text_file(run.path("rank0_metric_eval_done.txt")), "rank 0 eval done");
  const json results = parse_file(run.path("results.json"));
  EXPECT_EQ(results.at("model_configs").at("model_args"), "moetap/tiny_moe/tiny_moe,method=forward,device=cpu");

  const json manifest = run.manifest();
  EXPECT_EQ(manifest.at("schema_version"), 1);
  EXPECT_EQ(manifest.at("model"), "models/tiny_moe.pt");
  EXPECT_EQ(manifest.at("sha256"), "ab12");
  EXPECT_EQ(manifest.at("hooks").at(1).at("run_layer"), "1");
  EXPECT_EQ(manifest.at("counters").at("forwards"), 1);
  EXPECT_EQ(manifest.at("counters").at("tokens"), 6);
  EXPECT_EQ(manifest.at("config").at("task"), "mme");
  EXPECT_EQ(manifest.at("rank"), 0);
  EXPECT_EQ(manifest.at("world_size"), 1);
  EXPECT_EQ(manifest.at("notices").at("something to know"), 2);
}

TEST(RunFilesTest, ARunWithoutForwardsIsWhole) {
  SyntheticRun run;
  run.write(describe({{"language_model", "0"}}), {});
  EXPECT_EQ(run.log().at("logs"), json::array());
  EXPECT_EQ(run.summary().at("components"), json::object());
  EXPECT_FALSE(std::filesystem::exists(run.path("moetap/probe.safetensors")));
}

TEST(RunFilesTest, ModelsWhoseLayersCollideAreKeptApart) {
  auto other = describe({{"language_model", "0"}}, "other");
  other->hooks[0].name = "another.gate";
  const auto model = describe({{"language_model", "0"}});
  const auto twin = describe({{"language_model", "0"}}, "twin");
  SyntheticRun run;
  RunFiles files(run.config());
  int64_t sample = 0;
  for (const auto& each : {model, other, twin}) {
    files.add_model(each);
    ForwardRecord record = forward_of(each, {sample++});
    record.routers = {observe_router({.hook = 0}, seeded_logits(sample, {1, 2, 4}))};
    files.write(record);
  }
  files.close({}, {});
  const json layers = run.summary().at("components").at("language_model");
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers.at("0").at("tokens"), 4);
  EXPECT_EQ(layers.at("1").at("name"), "another.gate");
  EXPECT_EQ(run.manifest().at("other_models").at(0).at("hooks").at(0).at("run_layer"), "1");
}

TEST(RunFilesTest, ARunIsNotWrittenOver) {
  const auto model = describe({{"language_model", "0"}});
  SyntheticRun run;
  run.write(model, {});
  try {
    RunFiles again(run.config());
    FAIL() << "opened";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()),
              run.config().output_dir + ": already holds a run; name another output_dir, or remove this one");
  }
}

TEST(RunFilesTest, TwoSessionsDoNotShareADirectory) {
  SyntheticRun run;
  const RunFiles first(run.config());
  const std::string journal = run.path("moetap/journal/rank0");
  const std::string who = "(pid " + std::to_string(::getpid()) + " on ";
  const auto refusal = [&]() -> std::string {
    try {
      const RunFiles second(run.config());
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "opened";
  };
  const std::string line = refusal();
  EXPECT_TRUE(line.starts_with(journal + ": is written by another session " + who)) << line;
  // The line has host, time and command, so that the session's user can be found.
  EXPECT_NE(line.find(" since 2"), std::string::npos) << line;
  EXPECT_NE(line.find("Z (plugin_run_"), std::string::npos) << line;
  EXPECT_NE(line.find("; name another output_dir, or wait until it has ended"), std::string::npos) << line;
}

TEST(RunFilesTest, AJournalThatWasLeftIsNotLost) {
  SyntheticRun run;
  { const RunFiles killed(run.config()); }
  try {
    const RunFiles second(run.config());
    FAIL() << "opened";
  } catch (const std::runtime_error& error) {
    const std::string line = error.what();
    EXPECT_TRUE(line.starts_with(run.path("moetap/journal/rank0") +
                                 ": holds the journal of a run that did not finish (pid " + std::to_string(::getpid()) +
                                 " on "))
        << line;
    EXPECT_TRUE(
        line.ends_with("); complete its files with moetap recover, go on with resume, or name another output_dir"))
        << line;
  }
}

TEST(RunFilesTest, RanksHaveTheirOwnFiles) {
  const auto model = describe({{"language_model", "0"}});
  ::setenv("WORLD_SIZE", "2", 1);
  Config config;
  config.dump = Dump::kTopk;
  SyntheticRun run(config);
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 2, 4}))};
  for (const char* rank : {"0", "1"}) {
    ::setenv("RANK", rank, 1);
    run.write(model, {record});
    record.samples = {5};
  }
  ::setenv("RANK", "2", 1);
  SyntheticRun beyond;
  EXPECT_THROW(RunFiles{beyond.config()}, std::runtime_error);
  ::unsetenv("RANK");
  ::unsetenv("WORLD_SIZE");
  EXPECT_EQ(read_text_file(run.path("rank1_metric_eval_done.txt")), "rank 1 eval done");
  EXPECT_TRUE(std::filesystem::exists(run.path("moetap/dump/rank1/language_model-000000.safetensors")));
  EXPECT_EQ(run.manifest().at("world_size"), 2);
  EXPECT_EQ(run.manifest().at("rank"), 0);
  EXPECT_EQ(run.log().at("/logs/0/doc_id"_json_pointer), 0);
  const std::string other = run.path("moetap/rank1");
  EXPECT_EQ(parse_file(other + "/manifest.json").at("rank"), 1);
  EXPECT_EQ(parse_file(other + "/log_metrics.json").at("/logs/0/doc_id"_json_pointer), 5);
  EXPECT_EQ(parse_file(other + "/summary.json").at("forwards"), 1);
}

TEST(RunFilesTest, ADirectoryThatCannotBeWrittenIsNamed) {
  SyntheticRun run;
  write_text_file(run.folder().file("file"), "");
  run.config().output_dir = run.folder().file("file");
  try {
    const RunFiles files(run.config());
    FAIL() << "opened";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()), "cannot write " + run.folder().file("file") + "/moetap: Not a directory");
  }
}

TEST(RunFilesTest, AFullDiskKeepsWhatWasWritten) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  SyntheticRun run;
  RunFiles files(run.config());
  files.add_model(model);
  files.write(two_layers(model, 1, {0}));
  files.write(two_layers(model, 2, {1}));
  // The limit on a file's size stands for a full disk.
  std::string message;
  {
    const FileSizeLimit limit(std::filesystem::file_size(run.path("moetap/journal/rank0/forwards.frames")) + 50);
    message = error_of([&] { files.write(two_layers(model, 3, {2})); });
  }
  EXPECT_EQ(message, "cannot write " + run.path("moetap/journal/rank0/forwards.frames") + ": File too large");
  files.close({}, {});
  EXPECT_EQ(run.log().at("logs").size(), 2u);
  EXPECT_EQ(run.summary().at("forwards"), 2);
  EXPECT_FALSE(std::filesystem::exists(run.path("rank0_metric_eval_done.txt")));
}

std::map<std::string, std::string> files_in(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name != "owner") files[name] = read_text_file(entry.path().string());
  }
  return files;
}

// A run of three records. The second cannot be recorded, for one of several reasons. It would be the first with a new
// layer, a loop, another method, and a layer whose rows differ from the others'.
class LostRecord : public ::testing::TestWithParam<int> {
 protected:
  enum Reason { kNone, kTooLarge, kUnknownHook, kWrongRows, kWrongLogits };

  ForwardRecord bad_record(int reason) const {
    ForwardRecord record = two_layers(model_, 2, {1});
    record.method = "other_method";
    record.routers.push_back(observe_router({.hook = 1, .call = 1}, seeded_logits(5, {1, 7, 4})));
    record.routers.push_back(observe_router({.hook = 2}, seeded_logits(6, {1, 2, 4})));
    if (reason == kTooLarge) record.custom[{"", "0"}][std::string(100'000, 'x')] = 1.0;
    if (reason == kUnknownHook) record.routers[1].hook = 77;
    if (reason == kWrongRows) record.routers[0].scores = record.routers[0].scores.narrow(0, 0, 1);
    if (reason == kWrongLogits) record.routers[3].logits = at::zeros({2});
    return record;
  }

  /// The files of the journal, with or without the second record.
  std::map<std::string, std::string> journal_of(bool with_bad_record, int reason) {
    const TemporaryFolder folder;
    Config config;
    config.output_dir = folder.file("run");
    config.dump = Dump::kFull;
    const RunPaths paths(config.output_dir, 0);
    RunJournal journal(paths.journal.string(), RunJournal::Left::kRefuse, /*max_part_bytes=*/50'000);
    RunState state(config, {}, paths);
    journal.begin();
    state.add_model(model_, journal);
    ForwardRecord record = two_layers(model_, 1, {0});
    state.write(record, journal);
    if (with_bad_record) {
      EXPECT_THROW(state.write(bad_record(reason), journal), RecordError);
    }
    record = two_layers(model_, 3, {2});
    record.index = 2;
    state.write(record, journal);
    EXPECT_EQ(state.layers.layers().size(), 2u);
    EXPECT_EQ(state.summary.forwards(), 2);
    EXPECT_EQ(state.methods_that_ran.size(), 1u);
    EXPECT_EQ(journal.entries().size(), 2u);
    return files_in(journal.folder());
  }

  const std::shared_ptr<ModelDescription> model_ =
      describe({{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
};

TEST_P(LostRecord, LeavesNothingBehind) {
  const auto with = journal_of(true, GetParam());
  const auto without = journal_of(false, GetParam());
  ASSERT_EQ(with.size(), without.size());
  for (const auto& [name, bytes] : without) EXPECT_TRUE(with.at(name) == bytes) << name;
}

INSTANTIATE_TEST_SUITE_P(Reasons, LostRecord, ::testing::Values(1, 2, 3, 4));

TEST(RunFilesTest, ARecordThatIsLostIsNamedAndTheRunIsDone) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  SyntheticRun run;
  RunFiles files(run.config());
  files.add_model(model);
  files.write(two_layers(model, 1, {0}));
  ForwardRecord bad = two_layers(model, 2, {1});
  bad.index = 1;
  bad.routers[1].hook = 77;
  try {
    files.write(bad);
    FAIL() << "written";
  } catch (const RecordError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("forward 1 cannot be recorded: ")) << error.what();
  }
  files.write(two_layers(model, 3, {2}));
  files.close({}, {});
  EXPECT_EQ(run.log().at("logs").size(), 2u);
  EXPECT_EQ(run.summary().at("forwards"), 2);
  EXPECT_TRUE(std::filesystem::exists(run.path("rank0_metric_eval_done.txt")));
}

TEST(RunFilesTest, LayerIdsMayHaveAnyLength) {
  const std::string id = "1234567890123456789012345";
  const std::string nines(25, '9');
  auto model = describe({{"language_model", id}, {"language_model", nines}});
  auto other = describe({{"language_model", nines}, {"language_model", id}}, "other");
  other->identity = "another model";
  for (auto& hook : other->hooks) hook.name = "other." + hook.name;
  Config config;
  config.dump = Dump::kTopk;
  SyntheticRun run(config);
  run.write(model, {two_layers(model, 1, {0}), two_layers(other, 2, {1})});
  const json layers = run.summary().at("components").at("language_model");
  const std::string above = "1" + std::string(25, '0');
  for (const std::string& layer : {id, nines, above, above.substr(0, 25) + "1"}) {
    EXPECT_EQ(layers.at(layer).at("tokens"), 3) << layer;
    EXPECT_TRUE(run.log()
                    .at("/logs"_json_pointer)
                    .at(layer == id || layer == nines ? 0 : 1)
                    .at("logs_metrics_moe")
                    .at("language_model")
                    .contains(layer));
  }
  const SafetensorsFile shard = read_safetensors(run.path("moetap/dump/rank0/language_model-000000.safetensors"));
  EXPECT_TRUE(shard.tensors.contains(id + ".selected"));
}

TEST(RunFilesTest, ADiskThatRefusesAModelLeavesTheRunUnfinished) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  SyntheticRun run;
  RunFiles files(run.config());
  {
    const FileSizeLimit limit(std::filesystem::file_size(run.path("moetap/journal/rank0/forwards.frames")) + 10);
    EXPECT_THROW(files.add_model(model), std::runtime_error);
  }
  EXPECT_EQ(error_of([&] { files.close({}, {}); }), "");
  EXPECT_FALSE(std::filesystem::exists(run.path("rank0_metric_eval_done.txt")));
  EXPECT_TRUE(std::filesystem::exists(run.path("moetap/journal")));
}

TEST(RunFilesTest, ReplaysCountAsUnattributedAsLittleInTheJournalAsInTheSession) {
  const auto model = describe({{"language_model", "0"}});
  SyntheticRun run;
  run.config().resume = true;
  {
    RunFiles files(run.config());
    files.add_model(model);
    ForwardRecord replays = forward_of(model, {});
    replays.replays = 3;
    replays.routers = {observe_router({.attributed = false}, seeded_logits(1, {1, 3, 4}))};
    files.write(replays);
  }
  RunFiles files(run.config());
  files.close({}, {});
  EXPECT_EQ(run.manifest().at("counters").at("unattributed"), 0);
}

TEST(RunFilesTest, WhatAKilledProcessWroteIsWhole) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  SyntheticRun run;
  // LibTorch's threads do not survive a fork, so the process to be killed starts this test again, with this folder.
  ::setenv("MOETAP_TEST_KILLED_RUN", run.config().output_dir.c_str(), /*overwrite=*/0);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Config config;
        config.output_dir = std::getenv("MOETAP_TEST_KILLED_RUN");
        RunFiles files(config);
        files.add_model(model);
        for (int64_t i = 0; i < 5; ++i) files.write(two_layers(model, i, {i}));
        ::kill(::getpid(), SIGKILL);
      },
      ::testing::KilledBySignal(SIGKILL), "");
  ::unsetenv("MOETAP_TEST_KILLED_RUN");

  const std::string path = run.path("moetap/journal/rank0/forwards.frames");
  const std::string bytes = read_text_file(path);
  const auto forwards_in = [&](const std::string& file) {
    int64_t forwards = 0;
    FrameReader frames(file);
    while (const auto frame = frames.next()) {
      if (frame->kind != kForward) continue;
      const SummaryPart part = read_forward(*frame).summary;
      EXPECT_EQ(part.routers.size(), 2u);
      const ForwardRecord same = two_layers(model, forwards, {forwards});
      EXPECT_TRUE(at::equal(part.routers[1].sums.words, sum_rows(same.routers[1].sums).words));
      ++forwards;
    }
    return forwards;
  };
  EXPECT_EQ(forwards_in(path), 5);
  // Wherever the file is cut, the frames before the cut are read.
  int64_t last = 0;
  for (size_t size = 0; size <= bytes.size(); size += 97) {
    write_text_file(run.folder().file("cut"), bytes.substr(0, size));
    const int64_t forwards = forwards_in(run.folder().file("cut"));
    EXPECT_GE(forwards, last);
    last = forwards;
  }
  EXPECT_GE(last, 4);
  // Reading ends before a frame with a wrong byte.
  std::string torn = bytes;
  torn[bytes.size() - 40] ^= 1;
  write_text_file(run.folder().file("torn"), torn);
  EXPECT_EQ(forwards_in(run.folder().file("torn")), 4);
}

// The run is kept for the tests in Python, which read it as other tools do.
TEST(RunFilesTest, WritesARunForOtherReaders) {
  const char* folder = std::getenv("MOETAP_TEST_RUN_DIR");
  if (folder == nullptr) GTEST_SKIP() << "MOETAP_TEST_RUN_DIR is not set";
  std::filesystem::remove_all(folder);
  std::vector<std::pair<std::string, std::string>> routers;
  for (int64_t layer = 0; layer < 10; ++layer) routers.emplace_back("vision_tower", std::to_string(layer));
  routers.emplace_back("mm_projector", "mm_projector");
  const auto model = describe(routers);
  Config config;
  config.output_dir = folder;
  config.dump = Dump::kFull;
  config.samples = std::string(folder) + ".samples.jsonl";
  write_text_file(config.samples, R"({"doc_id": 1, "doc": {"category": "OCR"}, "resps": [["Yes"]]})"
                                  "\n"
                                  R"({"doc_id": 0, "doc": {"category": "count"}})"
                                  "\n");
  RunFiles files(config);
  files.add_model(model);
  ForwardRecord record = forward_of(model, {0, 1}, 8.0);
  for (int64_t hook = 0; hook < 11; ++hook) {
    record.routers.push_back(observe_router({.hook = hook}, seeded_logits(hook, {2, 5, 4})));
  }
  files.write(record);
  files.close({}, {});
}

}  // namespace
}  // namespace moetap::plugin
