#include "plugin/dump/attention_dump.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/synthetic_attention.h"
#include "tests/plugin/support/tensors.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

class AttentionDumpTest : public ::testing::Test {
 protected:
  AttentionDumpTest() {
    fs::create_directory(journal_);
    add_attention_hooks(*model_, {{"language_model", "0"}, {"language_model", "1"}, {"vision_tower", "0"}});
    for (const int64_t hook : {0, 1, 2}) layers_.place(*model_, hook, 0);
  }

  AttentionDump dump() const { return AttentionDump({dump_, journal_, 0}); }

  /// Two samples; layer 1 of the language model is in a loop of two turns, the tower's samples are not known.
  ForwardRecord forward(int64_t number) const {
    ForwardRecord record = forward_of(model_, {2 * number, 2 * number + 1});
    record.index = number;
    const auto seeded = [&](int64_t seed) { return seeded_probabilities(10 * number + seed, 2, 4); };
    record.attention = {observe_attention({.hook = 0, .matrix = true}, seeded(0)),
                        observe_attention({.hook = 1, .matrix = true}, seeded(1)),
                        observe_attention({.hook = 1, .call = 1, .matrix = true}, seeded(2)),
                        observe_attention({.hook = 2, .attributed = false, .matrix = true}, seeded(3))};
    record.attention[0].matrices[1].first_position = 5;  // a cache
    return record;
  }

  std::map<std::string, at::Tensor> matrices(const std::string& series) const {
    std::map<std::string, at::Tensor> all;
    for (const auto& entry : fs::directory_iterator(dump_)) {
      if (!entry.path().filename().string().starts_with(series)) continue;
      for (const auto& [name, tensor] : read_safetensors(entry.path().string()).tensors) {
        EXPECT_TRUE(all.emplace(name, tensor).second) << name << " is there twice";
      }
    }
    return all;
  }

  TemporaryFolder folder_;
  const std::string dump_ = folder_.file("dump"), journal_ = folder_.file("journal");
  std::shared_ptr<ModelDescription> model_ = describe({});
  LayerTable layers_{hooks::HookKind::kAttention};
};

TEST_F(AttentionDumpTest, EveryMatrixHasANameOfItsOwn) {
  AttentionDump dump = this->dump();
  for (const int64_t number : {0, 1}) {
    const auto prepared = dump.prepare(forward(number), layers_, {});
    EXPECT_EQ(prepared.num_matrices, (std::map<std::string, int64_t>{{"language_model.attention", 6 * (number + 1)},
                                                                     {"vision_tower.attention", 2 * (number + 1)}}));
    dump.add(prepared);
  }
  dump.finish();
  const auto language = matrices("language_model.attention");
  std::vector<std::string> names;
  for (const auto& [name, tensor] : language) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"0/0/0", "0/1/5", "0/2/0", "0/3/5", "1/0/0", "1/0/0/1", "1/1/0", "1/1/0/1",
                                             "1/2/0", "1/2/0/1", "1/3/0", "1/3/0/1"}));
  const auto mean = [](int64_t seed, int64_t sample) { return seeded_probabilities(seed, 2, 4).mean(1)[sample]; };
  EXPECT_TRUE(at::allclose(language.at("0/1/5"), mean(0, 1), 1e-6, 1e-7));
  EXPECT_TRUE(at::allclose(language.at("1/2/0"), mean(11, 0), 1e-6, 1e-7));
  EXPECT_TRUE(at::allclose(language.at("1/2/0/1"), mean(12, 0), 1e-6, 1e-7));
  const auto tower = matrices("vision_tower.attention");
  EXPECT_EQ(tower.size(), 4u);
  for (const int64_t number : {0, 1}) {
    for (const int64_t sequence : {0, 1}) {
      const std::string name = fmt::format("0/-1.{}.{}/0", number, sequence);
      EXPECT_TRUE(at::allclose(tower.at(name), mean(10 * number + 3, sequence), 1e-6, 1e-7)) << name;
    }
  }
  // No name comes twice: one shard is enough.
  for (const std::string series : {"language_model", "vision_tower"}) {
    EXPECT_TRUE(fs::exists(dump_ + "/" + series + ".attention-000000.safetensors"));
    EXPECT_FALSE(fs::exists(dump_ + "/" + series + ".attention-000001.safetensors"));
  }
}

TEST_F(AttentionDumpTest, MetadataNamesHooksAndRegions) {
  AttentionDump dump = this->dump();
  Config config;
  config.attention_regions = "tokens:image=7";
  dump.add(dump.prepare(forward(0), layers_, config));
  dump.finish();
  const auto metadata = read_safetensors(dump_ + "/language_model.attention-000000.safetensors").metadata;
  EXPECT_EQ(nlohmann::json::parse(metadata.at("hooks")),
            nlohmann::json({{"0", "language_model.layers.0.attn"}, {"1", "language_model.layers.1.attn"}}));
  EXPECT_EQ(nlohmann::json::parse(metadata.at("regions")), nlohmann::json({"image", "other"}));
}

TEST_F(AttentionDumpTest, AForwardWithoutMatricesHasNoSeries) {
  AttentionDump dump = this->dump();
  ForwardRecord record = forward(0);
  for (AttentionRecord& attention : record.attention) attention.matrices.clear();
  const auto prepared = dump.prepare(record, layers_, {});
  EXPECT_TRUE(prepared.series.empty());
  EXPECT_TRUE(prepared.num_matrices.empty());
  dump.add(prepared);
  dump.finish();
  EXPECT_FALSE(fs::exists(dump_));
}

TEST_F(AttentionDumpTest, IsCutToWhatTheJournalHolds) {
  {
    AttentionDump dump = this->dump();
    for (const int64_t number : {0, 1, 2}) dump.add(dump.prepare(forward(number), layers_, {}));
  }
  AttentionDump again = dump();
  EXPECT_EQ(again.restore(),
            (std::map<std::string, int64_t>{{"language_model.attention", 18}, {"vision_tower.attention", 6}}));
  // Series of routers stand beside; the journal knows nothing of the tower's.
  EXPECT_EQ(again.cut({{"language_model.attention", 6}, {"language_model", 100}}), 0);
  again.add(again.prepare(forward(1), layers_, {}));
  again.finish();
  EXPECT_EQ(matrices("language_model.attention").size(), 12u);
  EXPECT_EQ(matrices("vision_tower.attention").size(), 2u);
  EXPECT_TRUE(at::allclose(matrices("vision_tower.attention").at("0/-1.1.0/0"),
                           seeded_probabilities(13, 2, 4).mean(1)[0], 1e-6, 1e-7));
}

}  // namespace
}  // namespace moetap::plugin
