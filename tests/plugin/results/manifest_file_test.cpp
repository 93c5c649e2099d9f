#include "plugin/results/manifest_file.h"

#include <gtest/gtest.h>

#include "tests/plugin/support/synthetic_attention.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;

class ManifestFileTest : public ::testing::Test {
 protected:
  json written(const Manifest& manifest) const {
    const std::string path = folder_.file("manifest.json");
    write_manifest_file(path, manifest);
    return parse_file(path);
  }

  Manifest manifest() const {
    return {config_, models_, layers_, attention_layers_, summary_, unverified_, {2, 4}, counters_, losses_, {},
            times_,  0,       {}};
  }

  TemporaryFolder folder_;
  Config config_;
  std::vector<std::shared_ptr<const ModelDescription>> models_;
  LayerTable layers_, attention_layers_{hooks::HookKind::kAttention};
  RunSummary summary_;
  UnverifiedHooks unverified_;
  Counters counters_;
  LogLosses losses_;
  RunTimes times_;
};

TEST_F(ManifestFileTest, HoldsEveryCount) {
  int64_t value = 1;
  for (const CounterInfo& count : kCounters) counters_.*count.member = value++;
  losses_.not_finite = value;
  json expected;
  value = 1;
  for (const char* name :
       {"forwards", "replayed", "tokens", "dropped", "unwritten", "aborted", "called_hooks", "failed_hooks",
        "unattributed", "out_of_range", "label_mismatches", "skipped", "not_finite"}) {
    expected[name] = value++;
  }
  EXPECT_EQ(written(manifest()).at("counters"), expected);
}

TEST_F(ManifestFileTest, NoticesOfAllSourcesStandTogether) {
  counters_.notices["said while it ran"] = 3;
  losses_.refused_names["left out of the log"] = 2;
  Manifest all = manifest();
  all.notices = {"no layers"};
  EXPECT_EQ(written(all).at("notices"), json({{"said while it ran", 3}, {"left out of the log", 2}, {"no layers", 1}}));
}

TEST_F(ManifestFileTest, AModelThatWasAttachedTwiceIsDescribedOnce) {
  models_ = {describe({{"language_model", "0"}, {"language_model", "1"}}, "first"),
             describe({{"language_model", "0"}, {"language_model", "1"}}, "second")};
  layers_.place(*models_[1], 1, 4);  // only the second reported, and only its hook 1
  const json manifest_json = written(manifest());
  EXPECT_FALSE(manifest_json.contains("other_models"));
  EXPECT_TRUE(manifest_json.at("hooks").at(0).at("run_layer").is_null());
  EXPECT_EQ(manifest_json.at("hooks").at(1).at("run_layer"), "1");
  EXPECT_EQ(manifest_json.at("rank"), 2);
  EXPECT_EQ(manifest_json.at("world_size"), 4);
}

TEST_F(ManifestFileTest, SaysWhatIsWithheld) {
  models_ = {describe({{"language_model", "0"}, {"language_model", "1"}}, "first"),
             describe({{"language_model", "0"}, {"language_model", "1"}}, "second")};
  unverified_[{"first", 1}]["logits"] = "why";
  unverified_[{"second", 1}]["weights"] = "too";
  unverified_[{"other", 0}]["ids"] = "of no model here";
  const json hooks = written(manifest()).at("hooks");
  EXPECT_FALSE(hooks.at(0).contains("unverified"));
  EXPECT_EQ(hooks.at(1).at("unverified"), json({{"logits", "why"}, {"weights", "too"}}));
}

TEST_F(ManifestFileTest, TimesAreUtcAndARecoveryIsSaid) {
  times_.opened = std::chrono::system_clock::time_point(std::chrono::milliseconds(1'772'355'600'250));
  times_.closed = times_.opened + std::chrono::milliseconds(1500);
  Manifest recovered = manifest();
  recovered.times_resumed = 2;
  recovered.recovery = RecoveryNote{"pid 1 on node", 10, 2, 3};
  const json told = written(recovered);
  EXPECT_EQ(told.at("times"),
            json({{"opened", "2026-03-01T09:00:00.250Z"}, {"closed", "2026-03-01T09:00:01.750Z"}, {"seconds", 1.5}}));
  EXPECT_EQ(told.at("resumed"), 2);
  EXPECT_EQ(told.at("recovered"), true);
  EXPECT_EQ(told.at("recovered_from"), "pid 1 on node");
  EXPECT_EQ(told.at("lost"), json({{"journal_bytes", 10}, {"forwards", 2}, {"dump_rows", 3}}));
  EXPECT_FALSE(written(manifest()).contains("recovered"));
}

TEST_F(ManifestFileTest, AnAttentionLayerNamesItsRouters) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  add_attention_hooks(*model, {{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
  models_ = {model};
  for (const int64_t hook : {0, 1}) layers_.place(*model, hook, 4);
  for (const int64_t hook : {3, 2}) attention_layers_.place(*model, hook, 0);
  const RouterRecord router = observe_router({}, seeded_logits(1, {1, 3, 4}));
  const AttentionRecord attention = observe_attention({}, seeded_probabilities(1, 1, 3), &router);
  SummaryPart part;
  for (const size_t place : {1, 0}) part.attention_of_experts.push_back({0, place, attention.experts[0].sums});
  summary_.add(part);
  part.generation = true;
  summary_.add(part);
  const json hooks = written(manifest()).at("hooks");
  EXPECT_EQ(hooks.at(3).at("routers"), json({"language_model.layers.0.gate", "language_model.layers.1.gate"}));
  EXPECT_EQ(hooks.at(3).at("run_layer"), "1");
  EXPECT_EQ(hooks.at(2).at("routers"), json::array());
  EXPECT_EQ(hooks.at(2).at("reported"), true);
  EXPECT_EQ(hooks.at(4).at("reported"), false);
  EXPECT_FALSE(hooks.at(4).contains("routers"));
  EXPECT_FALSE(hooks.at(0).contains("routers"));
}

}  // namespace
}  // namespace moetap::plugin
