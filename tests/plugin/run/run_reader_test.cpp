// What a finished run says of its model and routers, and how anything else is refused.
#include "plugin/run/run_reader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "plugin/run/run_ranks.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

class ReadRun : public ::testing::Test {
 protected:
  ~ReadRun() override { set_rank(0, 1); }

  static void set_rank(int64_t rank, int64_t world_size) {
    ::setenv("RANK", std::to_string(rank).c_str(), 1);
    ::setenv("WORLD_SIZE", std::to_string(world_size).c_str(), 1);
  }

  /// Samples of three tokens each through layers 2 and 10 of two components.
  void write(int64_t rank, int64_t world_size, int64_t samples, bool dies = false) {
    set_rank(rank, world_size);
    Config config;
    config.output_dir = run_;
    config.task = "routing";
    RunFiles files(config);
    auto model = describe({{"language_model", "10"}, {"language_model", "2"}, {"encoder", "0"}});
    model->hooks[2].top_k.reset();
    model->hooks[1].null_experts = 3;
    files.add_model(model);
    for (int64_t i = 0; i < samples; ++i) {
      ForwardRecord record = forward_of(model, {100 * rank + i});
      record.index = i;
      for (const int64_t hook : {0, 1}) {
        record.routers.push_back(observe_router({.hook = hook}, seeded_logits(10 * rank + i + hook, {1, 3, 4})));
      }
      files.write(record);
    }
    if (!dies) files.close({}, {});
    set_rank(0, 1);
  }

  std::string error() const {
    return error_of([&] { RunReader reader(run_); });
  }

  TemporaryFolder folder_;
  std::string run_ = folder_.file("run");
};

TEST_F(ReadRun, NamesRoutersAndAddsUpRanks) {
  write(0, 2, 4);
  write(1, 2, 3);
  const RunReader run(run_);
  EXPECT_EQ(run.ranks(), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(run.task(), "routing");
  EXPECT_EQ(run.model_file(), "models/tiny_moe.pt");
  EXPECT_EQ(run.sha256(), "ab12");
  EXPECT_EQ(run.config_text("dump"), "none");
  EXPECT_EQ(run.config_text("no such key"), "");
  EXPECT_EQ(run.dump_folder(1), run_ + "/moetap/dump/rank1");
  EXPECT_EQ(run.log_folder(0), run_);
  EXPECT_EQ(run.log_folder(1), run_ + "/moetap/rank1");
  EXPECT_EQ(run.main_component(), "language_model");
  const std::vector<ReadLayer>& layers = run.components().at("language_model");
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].layer, "2");  // by number, not by text
  EXPECT_EQ(layers[1].layer, "10");
  EXPECT_EQ(layers[0].null_experts, 3);
  EXPECT_EQ(layers[0].num_experts, 4);
  EXPECT_EQ(layers[0].top_k, 2);
  EXPECT_EQ(layers[0].scoring, "softmax");
  for (const ReadLayer& layer : layers) {
    EXPECT_EQ(layer.tokens, 7 * 3);
    ASSERT_EQ(layer.selected.size(), 4u);
    EXPECT_EQ(layer.selected[0] + layer.selected[1] + layer.selected[2] + layer.selected[3], 2 * 7 * 3);
    EXPECT_EQ(layer.top1[0] + layer.top1[1] + layer.top1[2] + layer.top1[3], 7 * 3);
    EXPECT_GT(layer.entropy, 0.0);
    EXPECT_LE(layer.entropy, std::log(4.0));
  }
  // The counts are those of the two summaries.
  std::vector<int64_t> sum(4);
  for (const char* file : {"/moetap/summary.json", "/moetap/rank1/summary.json"}) {
    const auto counts = parse_file(run_ + file).at("components").at("language_model").at("2").at("selected_count");
    for (size_t e = 0; e < sum.size(); ++e) sum[e] += counts.at(e).get<int64_t>();
  }
  EXPECT_EQ(layers[0].selected, sum);
}

TEST_F(ReadRun, ARunThatDidNotFinishIsRefused) {
  EXPECT_NE(error().find("there is no such directory"), std::string::npos);
  fs::create_directories(run_);
  EXPECT_NE(error().find("holds no run of moetap"), std::string::npos);
  fs::remove_all(run_);
  write(0, 2, 2);
  EXPECT_NE(error().find("rank 1 of 2 did not finish; if its process died, complete it with moetap recover " + run_),
            std::string::npos);
  write(1, 2, 2, /*dies=*/true);
  EXPECT_EQ(find_run_ranks(run_).unfinished, std::vector<int64_t>{1});
  EXPECT_NE(error().find("the run did not finish (rank1 has a journal)"), std::string::npos);
}

TEST_F(ReadRun, FilesThatAreNotTheRunsAreNamed) {
  write(0, 1, 2);
  const std::string manifest = run_ + "/moetap/manifest.json", summary = run_ + "/moetap/summary.json";
  auto json = parse_file(manifest);
  const std::string whole = json.dump();
  json["schema_version"] = 99;
  write_text_file(manifest, json.dump());
  EXPECT_EQ(error(), manifest + ": has schema_version 99, this moetap reads 1");
  write_text_file(manifest, whole.substr(0, whole.size() / 2));
  EXPECT_EQ(error(), manifest + ": is damaged: it is no JSON");
  write_text_file(manifest, whole);
  EXPECT_EQ(error(), "");
  fs::remove(summary);
  EXPECT_EQ(error(), summary + ": cannot be read; is the run whole?");
}

TEST_F(ReadRun, OnlyMarkersOfRanksCount) {
  write(0, 1, 1);
  for (const char* name : {"rank_metric_eval_done.txt", "rank-1_metric_eval_done.txt", "rank1x_metric_eval_done.txt",
                           "rankings.txt", "rank99999999999999999999_metric_eval_done.txt"}) {
    write_text_file(run_ + "/" + name, "");
  }
  EXPECT_EQ(find_run_ranks(run_).done, std::vector<int64_t>{0});
  EXPECT_EQ(find_run_ranks(folder_.file("nothing")).done, std::vector<int64_t>{});
}

}  // namespace
}  // namespace moetap::plugin
