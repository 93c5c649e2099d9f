#include "plugin/run/run_files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <set>

#include "analysis/routers/router_metrics.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/transition_sums.h"
#include "plugin/formats/frame_log.h"
#include "plugin/formats/safetensors.h"
#include "plugin/journal/run_journal.h"
#include "plugin/process/notices.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;

at::Tensor logits(int64_t seed, at::IntArrayRef sizes) {
  at::manual_seed(static_cast<uint64_t>(seed));
  return at::randn(sizes);
}

ForwardRecord two_layers(const std::shared_ptr<ModelDescription>& model, int64_t seed, std::vector<int64_t> samples) {
  const auto batch = static_cast<int64_t>(samples.size());
  ForwardRecord record = forward_of(model, std::move(samples));
  record.routers = {observe_router({.hook = 0}, logits(seed, {batch, 3, 4})),
                    observe_router({.hook = 1}, logits(seed + 1000, {batch, 3, 4}))};
  const auto first = [](const RouterRecord& router) { return router.selected.select(1, 0).contiguous(); };
  record.transitions = {
      {0, 1, analysis::observe_transition(first(record.routers[0]), first(record.routers[1]), {}, 4, 4)}};
  return record;
}

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
  EXPECT_EQ(names, (std::set<std::string>{"mme.json", "results.json", "rank0_metric_eval_done.txt",
                                          "moetap/manifest.json", "moetap/summary.json", "moetap/probe.safetensors",
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

TEST(RunFilesTest, DroppedForwardsAreSaidInTheLogAndInOneLine) {
  std::vector<std::string> lines;
  set_notice_handler([&](const std::string& line) { lines.push_back(line); });
  Counters counters;
  counters.forwards = 988;
  counters.dropped = 12;
  counters.unwritten = 1;
  counters.aborted = 2;
  Config config;
  config.on_overflow = OnOverflow::kDrop;
  SyntheticRun run(config), blocking;
  run.write(describe({{"language_model", "0"}}), {}, counters);
  blocking.write(describe({{"language_model", "0"}}), {}, counters);
  set_notice_handler(nullptr);
  EXPECT_EQ(run.log().at("moetap"), json::parse(R"({"forwards": 988, "dropped": 12, "unwritten": 1, "aborted": 2})"));
  const std::string text = read_text_file(run.path("log_metrics.json"));
  EXPECT_LT(text.find("\"moetap\""), text.find("\"logs\""));
  EXPECT_EQ(lines, (std::vector<std::string>{"12 of 1000 forwards were dropped: the queue was full (raise queue_bytes, "
                                             "or set on_overflow to block)",
                                             "12 of 1000 forwards were dropped: they ended after the session was "
                                             "closed"}));
}

TEST(RunFilesTest, TheSummaryIsThatOfAllTokensHoweverTheyWereCut) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  std::vector<ForwardRecord> whole = {two_layers(model, 1, {0, 1, 2})};
  std::vector<ForwardRecord> parts;
  const at::Tensor a = logits(1, {3, 3, 4});
  const at::Tensor b = logits(1001, {3, 3, 4});
  for (int64_t i = 0; i < 3; ++i) {
    ForwardRecord record = forward_of(model, {i});
    record.routers = {observe_router({.hook = 0}, a.narrow(0, i, 1)), observe_router({.hook = 1}, b.narrow(0, i, 1))};
    record.transitions = {
        {0, 1,
         analysis::observe_transition(record.routers[0].selected.select(1, 0).contiguous(),
                                      record.routers[1].selected.select(1, 0).contiguous(), {}, 4, 4)}};
    parts.push_back(record);
  }
  SyntheticRun at_once;
  at_once.write(model, whole);
  SyntheticRun cut;
  cut.write(model, {parts[2], parts[0], parts[1]});
  EXPECT_EQ(cut.summary().at("components"), at_once.summary().at("components"));

  const json layer = at_once.summary().at("components").at("language_model").at("0");
  const analysis::RouterMetrics metrics = finalize(sum_rows(whole[0].routers[0].sums));
  EXPECT_EQ(layer.at("tokens"), 9);
  EXPECT_EQ(layer.at("num_experts"), 4);
  EXPECT_EQ(layer.at("top_k"), 2);
  EXPECT_EQ(layer.at("name"), "language_model.layers.0.gate");
  EXPECT_EQ(layer.at("selected_count").get<std::vector<int64_t>>(), metrics.selected_count);
  EXPECT_EQ(layer.at("entropy_all").get<double>(), *metrics.entropy_all);
  EXPECT_EQ(layer.at("coactivation").at(1).at(1), metrics.selected_count[1]);
  int64_t transitions = 0;
  for (const json& row : layer.at("transition")) {
    for (const json& count : row) transitions += count.get<int64_t>();
  }
  EXPECT_EQ(transitions, 9);
  EXPECT_TRUE(at_once.summary().at("components").at("language_model").at("1").at("transition").is_null());
  EXPECT_EQ(at_once.summary().at("attention"), json::object());
}

TEST(RunFilesTest, OneSlotSelectsNoPairs) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0, .top_k = 1}, logits(1, {1, 5, 4}))};
  SyntheticRun run;
  run.write(model, {record});
  const json layer = run.summary().at("components").at("language_model").at("0");
  for (size_t e = 0; e < 4; ++e) {
    for (size_t f = 0; f < 4; ++f) {
      EXPECT_EQ(layer.at("coactivation").at(e).at(f), e == f ? layer.at("selected_count").at(e) : json(0));
    }
  }
}

TEST(RunFilesTest, ANumberOfSlotsThatChangesStillMerges) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord one = forward_of(model, {0});
  one.routers = {observe_router({.hook = 0, .top_k = 1}, logits(1, {1, 5, 4}))};
  ForwardRecord two = forward_of(model, {1});
  two.routers = {observe_router({.hook = 0, .top_k = 2}, logits(2, {1, 5, 4}))};
  SyntheticRun run;
  run.write(model, {one, two});
  const json layer = run.summary().at("components").at("language_model").at("0");
  EXPECT_EQ(layer.at("tokens"), 10);
  EXPECT_EQ(layer.at("top_k"), 2);
}

TEST(RunFilesTest, ALayerThatNeverRanIsThereWithoutTokens) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, logits(1, {1, 5, 4}))};
  SyntheticRun run;
  run.write(model, {record});
  const json silent = run.summary().at("components").at("language_model").at("1");
  EXPECT_EQ(silent.at("tokens"), 0);
  EXPECT_EQ(silent.at("selected_count"), json::parse("[0,0,0,0]"));
  EXPECT_TRUE(silent.at("entropy_all").is_null());
  EXPECT_TRUE(run.manifest().at("hooks").at(1).at("run_layer").is_null());
}

TEST(RunFilesTest, ARunWithoutForwardsIsWhole) {
  SyntheticRun run;
  run.write(describe({{"language_model", "0"}}), {});
  EXPECT_EQ(run.log().at("logs"), json::array());
  EXPECT_EQ(run.summary().at("components"), json::object());
  EXPECT_FALSE(std::filesystem::exists(run.path("moetap/probe.safetensors")));
}

TEST(RunFilesTest, TheProbeKeepsTheFirstTokensOfEachLayer) {
  const auto model = describe({{"language_model", "0"}});
  std::vector<ForwardRecord> records;
  for (int64_t i = 0; i < 3; ++i) {
    records.push_back(forward_of(model, {i}));
    records.back().routers = {observe_router({.hook = 0}, logits(i, {1, 3, 4}))};
  }
  Config config;
  config.probe_tokens = 7;
  SyntheticRun run(config);
  run.write(model, records);
  const SafetensorsFile probe = read_safetensors(run.path("moetap/probe.safetensors"));
  const at::Tensor all =
      at::cat({records[0].routers[0].logits, records[1].routers[0].logits, records[2].routers[0].logits});
  EXPECT_TRUE(at::equal(probe.tensors.at("language_model.0"), at::softmax(all, -1).narrow(0, 0, 7)));
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
    record.routers = {observe_router({.hook = 0}, logits(sample, {1, 2, 4}))};
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
  // Host, time and command, so that its user is found.
  EXPECT_NE(line.find(" since 2"), std::string::npos) << line;
  EXPECT_NE(line.find("Z (plugin_run_file"), std::string::npos) << line;
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
  record.routers = {observe_router({.hook = 0}, logits(1, {1, 2, 4}))};
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
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit limit = before;
  limit.rlim_cur = std::filesystem::file_size(run.path("moetap/journal/rank0/forwards.frames")) + 50;
  setrlimit(RLIMIT_FSIZE, &limit);
  std::string message;
  try {
    files.write(two_layers(model, 3, {2}));
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(message, "cannot write " + run.path("moetap/journal/rank0/forwards.frames") + ": File too large");
  files.close({}, {});
  EXPECT_EQ(run.log().at("logs").size(), 2u);
  EXPECT_EQ(run.summary().at("forwards"), 2);
  EXPECT_FALSE(std::filesystem::exists(run.path("rank0_metric_eval_done.txt")));
}

TEST(RunFilesTest, WhatAKilledProcessWroteIsWhole) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  SyntheticRun run;
  // The process to be killed starts this test anew, LibTorch's threads do not survive a fork: it finds the folder here.
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
      uint32_t length = 0;
      std::memcpy(&length, frame->payload.data(), sizeof(length));
      const SummaryPart part = decode_summary_part(std::string_view(frame->payload).substr(sizeof(length), length));
      EXPECT_EQ(part.routers.size(), 2u);
      const ForwardRecord same = two_layers(model, forwards, {forwards});
      EXPECT_TRUE(at::equal(part.routers[1].sums.words, sum_rows(same.routers[1].sums).words));
      ++forwards;
    }
    return forwards;
  };
  EXPECT_EQ(forwards_in(path), 5);
  // Cut anywhere, the frames before the cut are there.
  int64_t last = 0;
  for (size_t size = 0; size <= bytes.size(); size += 97) {
    write_text_file(run.folder().file("cut"), bytes.substr(0, size));
    const int64_t forwards = forwards_in(run.folder().file("cut"));
    EXPECT_GE(forwards, last);
    last = forwards;
  }
  EXPECT_GE(last, 4);
  // A flipped byte ends the file.
  std::string torn = bytes;
  torn[bytes.size() - 40] ^= 1;
  write_text_file(run.folder().file("torn"), torn);
  EXPECT_EQ(forwards_in(run.folder().file("torn")), 4);
}

// Left for the tests in Python, which read it as other tools do.
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
    record.routers.push_back(observe_router({.hook = hook}, logits(hook, {2, 5, 4})));
  }
  files.write(record);
  files.close({}, {});
}

}  // namespace
}  // namespace moetap::plugin
