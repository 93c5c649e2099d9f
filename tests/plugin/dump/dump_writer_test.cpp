#include "plugin/dump/dump_writer.h"

#include <gtest/gtest.h>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/synthetic_attention.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

class DumpWriterTest : public ::testing::Test {
 protected:
  DumpWriter writer(Dump what, int64_t max_shard_bytes = kMaxShardBytes, DumpWeights weights = DumpWeights::kF32) {
    std::filesystem::create_directories(folder_.file("journal"));
    return DumpWriter({what, weights}, {folder_.file("dump"), folder_.file("journal"), 3, max_shard_bytes});
  }

  void add(DumpWriter& dump, const ForwardRecord& record) {
    for (const RouterRecord& router : record.routers) {
      layers_.place(*record.model, router.hook, router.sums.num_experts);
    }
    dump.add(dump.prepare(record, {layers_, layers_}));
  }

  std::vector<std::string> shards() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.file("dump"))) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  SafetensorsFile shard(const std::string& name) const { return read_safetensors(folder_.file("dump/" + name)); }

  TemporaryFolder folder_;
  LayerTable layers_;
};

TEST_F(DumpWriterTest, RowsAreTokensAndLayersShareThem) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  const at::Tensor valid = at::tensor({1, 1, 1, 1, 1, 0}).reshape({2, 3}).to(at::kBool);
  ForwardRecord record = forward_of(model, {4, 5});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {2, 3, 4}), valid),
                    observe_router({.hook = 1}, seeded_logits(2, {2, 3, 4}).to(at::kBFloat16), valid)};
  ForwardRecord next = forward_of(model, {4});
  next.generation = true;
  next.routers = {observe_router({.hook = 0}, seeded_logits(3, {1, 1, 4})),
                  observe_router({.hook = 1}, seeded_logits(4, {1, 1, 4}).to(at::kBFloat16))};
  DumpWriter dump = writer(Dump::kFull);
  add(dump, record);
  add(dump, next);
  dump.finish();

  ASSERT_EQ(shards(), (std::vector<std::string>{"language_model-000000.safetensors"}));
  const SafetensorsFile file = shard("language_model-000000.safetensors");
  EXPECT_EQ(file.metadata.at("schema_version"), "1");
  EXPECT_EQ(file.metadata.at("rank"), "3");
  EXPECT_EQ(file.metadata.at("first_row"), "0");
  EXPECT_EQ(nlohmann::json::parse(file.metadata.at("hooks")).at("1"), "language_model.layers.1.gate");
  EXPECT_TRUE(at::equal(file.tensors.at("sample"), at::tensor({4, 4, 4, 5, 5, 4}, at::kLong)));
  EXPECT_TRUE(at::equal(file.tensors.at("position"), at::tensor({0, 1, 2, 0, 1, 0}, at::kInt)));
  EXPECT_TRUE(at::equal(file.tensors.at("token_id"), at::tensor({100, 101, 102, 103, 104, 100}, at::kInt)));
  EXPECT_TRUE(at::equal(file.tensors.at("phase"), at::tensor({0, 0, 0, 0, 0, 1}, at::kByte)));
  EXPECT_EQ(file.tensors.at("0.selected").scalar_type(), at::kShort);
  for (const int64_t layer : {0, 1}) {
    const std::string id = std::to_string(layer);
    const auto column = [&](at::Tensor RouterRecord::*field) {
      return at::cat(
          {record.routers[static_cast<size_t>(layer)].*field, next.routers[static_cast<size_t>(layer)].*field});
    };
    EXPECT_TRUE(at::equal(file.tensors.at(id + ".selected").to(at::kLong), column(&RouterRecord::selected)));
    EXPECT_TRUE(at::equal(file.tensors.at(id + ".weights"), column(&RouterRecord::weights)));
    EXPECT_TRUE(at::equal(file.tensors.at(id + ".logits"), column(&RouterRecord::logits)));
    EXPECT_TRUE(at::equal(file.tensors.at(id + ".scores"), column(&RouterRecord::scores)));
  }
  EXPECT_EQ(file.tensors.at("1.logits").scalar_type(), at::kBFloat16);
  EXPECT_EQ(file.tensors.size(), 5u + 2 * 4);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.file("journal")));
}

TEST_F(DumpWriterTest, TopkLeavesOutLogitsAndScores) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 3, 4}))};
  DumpWriter dump = writer(Dump::kTopk);
  add(dump, record);
  dump.finish();
  EXPECT_EQ(shard("language_model-000000.safetensors").tensors.size(), 7u);
}

TEST_F(DumpWriterTest, RowsNameTheirForward) {
  const auto model = describe({{"language_model", "0"}});
  DumpWriter dump = writer(Dump::kTopk);
  for (const int64_t index : {3, 4, 70}) {
    ForwardRecord record = forward_of(model, {index});
    record.index = index;
    record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 2, 4}))};
    add(dump, record);
  }
  dump.finish();
  EXPECT_TRUE(at::equal(shard("language_model-000000.safetensors").tensors.at("forward"),
                        at::tensor({3, 3, 4, 4, 70, 70}, at::kLong)));
}

TEST_F(DumpWriterTest, IdsAloneHaveNoWeights) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 3, 4}))};
  DumpWriter dump = writer(Dump::kIds);
  add(dump, record);
  dump.finish();
  const SafetensorsFile file = shard("language_model-000000.safetensors");
  EXPECT_EQ(file.tensors.size(), 6u);
  EXPECT_TRUE(at::equal(file.tensors.at("0.selected").to(at::kLong), record.routers[0].selected));
  EXPECT_FALSE(file.tensors.contains("0.weights"));
}

TEST_F(DumpWriterTest, WeightsMayBeHalfPrecision) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 3, 4}))};
  DumpWriter dump = writer(Dump::kTopk, kMaxShardBytes, DumpWeights::kF16);
  add(dump, record);
  dump.finish();
  EXPECT_TRUE(at::equal(shard("language_model-000000.safetensors").tensors.at("0.weights"),
                        record.routers[0].weights.to(at::kHalf)));
}

// A batch gives the same shards as its forwards one by one, and nothing reaches the files before its end.
TEST_F(DumpWriterTest, ABatchOfForwardsIsWrittenAtItsEnd) {
  const auto model = describe({{"language_model", "0"}});
  DumpWriter dump = writer(Dump::kTopk, /*max_shard_bytes=*/4096);
  std::vector<at::Tensor> weights;
  for (int64_t i = 0; i < 60; ++i) {
    if (i % 20 == 0) {
      dump.settle();
      dump.begin_batch();
    }
    ForwardRecord record = forward_of(model, {i});
    record.routers = {observe_router({.hook = 0}, seeded_logits(i, {1, 17, 4}))};
    weights.push_back(record.routers[0].weights);
    add(dump, record);
    dump.settle();  // puts nothing into the dump within a batch
    if (i == 19) {
      EXPECT_FALSE(std::filesystem::exists(folder_.file("dump")));
    }
    if (i % 20 == 19) dump.end_batch();
  }
  dump.finish();
  std::vector<at::Tensor> read;
  for (const std::string& name : shards()) read.push_back(shard(name).tensors.at("0.weights"));
  EXPECT_GT(read.size(), 5u);
  EXPECT_TRUE(at::equal(at::cat(read), at::cat(weights)));
}

TEST_F(DumpWriterTest, ShardsStayBelowTheirLimit) {
  const auto model = describe({{"language_model", "0"}});
  constexpr int64_t kLimit = 4096;
  DumpWriter dump = writer(Dump::kTopk, kLimit);
  std::vector<at::Tensor> weights;
  for (int64_t i = 0; i < 20; ++i) {
    ForwardRecord record = forward_of(model, {i});
    record.routers = {observe_router({.hook = 0}, seeded_logits(i, {1, i == 7 ? 400 : 17, 4}))};
    weights.push_back(record.routers[0].weights);
    add(dump, record);
  }
  dump.finish();
  std::vector<at::Tensor> read;
  int64_t rows = 0;
  for (const std::string& name : shards()) {
    EXPECT_LE(std::filesystem::file_size(folder_.file("dump/" + name)), static_cast<uintmax_t>(kLimit));
    const SafetensorsFile file = shard(name);
    EXPECT_EQ(file.metadata.at("first_row"), std::to_string(rows));
    read.push_back(file.tensors.at("0.weights"));
    rows += read.back().size(0);
  }
  EXPECT_GT(read.size(), 5u);
  EXPECT_TRUE(at::equal(at::cat(read), at::cat(weights)));
}

TEST_F(DumpWriterTest, ALayerWithOtherRowsHasItsOwnSeries) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
  DumpWriter dump = writer(Dump::kTopk);
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 2, 4})),
                    observe_router({.hook = 1}, seeded_logits(2, {1, 3, 4})),
                    observe_router({.hook = 2}, seeded_logits(3, {1, 3, 4}))};
  add(dump, record);
  // A layer that was once apart stays apart, even if it has the others' rows again.
  ForwardRecord next = forward_of(model, {1});
  for (int64_t hook = 0; hook < 3; ++hook) {
    next.routers.push_back(observe_router({.hook = hook}, seeded_logits(4 + hook, {1, 2, 4})));
  }
  add(dump, next);
  dump.finish();
  EXPECT_EQ(shards(),
            (std::vector<std::string>{"language_model-000000.safetensors", "language_model.0-000000.safetensors"}));
  EXPECT_EQ(shard("language_model-000000.safetensors").tensors.at("1.selected").size(0), 5);
  EXPECT_FALSE(shard("language_model-000000.safetensors").tensors.contains("0.selected"));
  EXPECT_TRUE(at::equal(shard("language_model.0-000000.safetensors").tensors.at("sample"),
                        at::tensor({0, 0, 1, 1}, at::kLong)));
}

TEST_F(DumpWriterTest, OnATieTheFirstLayersStayTogether) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  DumpWriter dump = writer(Dump::kTopk);
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 2, 4})),
                    observe_router({.hook = 1}, seeded_logits(2, {1, 3, 4}))};
  add(dump, record);
  dump.finish();
  EXPECT_EQ(shards(),
            (std::vector<std::string>{"language_model-000000.safetensors", "language_model.1-000000.safetensors"}));
}

TEST_F(DumpWriterTest, ALoopHasAColumnForItsCalls) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
  DumpWriter dump = writer(Dump::kTopk);
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 2, 4})),
                    observe_router({.hook = 1, .call = 0}, seeded_logits(2, {1, 2, 4})),
                    observe_router({.hook = 1, .call = 1}, seeded_logits(3, {1, 2, 4})),
                    observe_router({.hook = 2}, seeded_logits(4, {1, 2, 4}))};
  add(dump, record);
  dump.finish();
  const SafetensorsFile loop = shard("language_model.1-000000.safetensors");
  EXPECT_TRUE(at::equal(loop.tensors.at("call"), at::tensor({0, 0, 1, 1}, at::kInt)));
  EXPECT_TRUE(at::equal(loop.tensors.at("1.weights"), at::cat({record.routers[1].weights, record.routers[2].weights})));
  const SafetensorsFile rest = shard("language_model-000000.safetensors");
  EXPECT_FALSE(rest.tensors.contains("call"));
  EXPECT_TRUE(rest.tensors.contains("0.selected") && rest.tensors.contains("2.selected"));
}

TEST_F(DumpWriterTest, AnArmThatIsSometimesTakenDoesNotCutTheOthersShards) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
  DumpWriter dump = writer(Dump::kTopk);
  for (int64_t i = 0; i < 10; ++i) {
    ForwardRecord record = forward_of(model, {i});
    record.routers = {observe_router({.hook = 0}, seeded_logits(i, {1, 2, 4})),
                      observe_router({.hook = 1 + i % 2}, seeded_logits(i + 50, {1, 2, 4}))};
    add(dump, record);
  }
  dump.finish();
  EXPECT_LE(shards().size(), 6u);
  int64_t rows_of_0 = 0;
  int64_t rows_of_1 = 0;
  for (const std::string& name : shards()) {
    const SafetensorsFile file = shard(name);
    if (file.tensors.contains("0.selected")) rows_of_0 += file.tensors.at("0.selected").size(0);
    if (file.tensors.contains("1.selected")) rows_of_1 += file.tensors.at("1.selected").size(0);
  }
  EXPECT_EQ(rows_of_0, 20);
  EXPECT_EQ(rows_of_1, 10);
}

TEST_F(DumpWriterTest, TokensOfNoKnownSampleAreMarked) {
  const auto model = describe({{"vision_tower", "0"}});
  ForwardRecord record = forward_of(model, {0, 1});
  record.routers = {observe_router({.hook = 0, .attributed = false}, seeded_logits(1, {1, 3, 4}))};
  record.routers[0].selected[0][1] = -1;  // an unused slot
  record.routers[0].weights[0][1] = 0;
  DumpWriter dump = writer(Dump::kTopk);
  add(dump, record);
  dump.finish();
  const SafetensorsFile file = shard("vision_tower-000000.safetensors");
  EXPECT_TRUE(at::equal(file.tensors.at("sample"), at::tensor({-1, -1, -1}, at::kLong)));
  EXPECT_EQ(file.tensors.at("0.selected")[0][1].item<int64_t>(), -1);
}

TEST_F(DumpWriterTest, ManyExpertsNeedWiderIds) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 1, 40000}))};
  DumpWriter dump = writer(Dump::kTopk);
  add(dump, record);
  dump.finish();
  EXPECT_EQ(shard("language_model-000000.safetensors").tensors.at("0.selected").scalar_type(), at::kInt);
}

TEST_F(DumpWriterTest, AttentionOfTheSameTokensStandsBesideTheRouters) {
  const auto model = describe({{"language_model", "0"}});
  add_attention_hooks(*model, {{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
  LayerTable attention_layers(hooks::HookKind::kAttention);
  layers_.place(*model, 0, 4);
  for (const int64_t hook : {1, 2, 3}) attention_layers.place(*model, hook, 0);
  DumpWriter dump = writer(Dump::kTopk);
  std::vector<at::Tensor> values;
  for (const int64_t seed : {1, 2}) {
    ForwardRecord record = forward_of(model, {2 * seed, 2 * seed + 1});
    record.routers = {observe_router({.hook = 0}, seeded_logits(seed, {2, 3, 4}))};
    const RouterRecord& router = record.routers[0];
    for (const int64_t hook : {1, 2, 3}) {
      AttentionRecord attention = observe_attention({.hook = hook}, seeded_probabilities(seed, 2, 3));
      attention.values = seeded_logits(100 * seed + hook, {6, 2});
      attention.value_names = {"entropy", "received"};
      attention.row = router.row.clone();
      attention.position = router.position.clone();
      record.attention.push_back(std::move(attention));
    }
    values.push_back(record.attention[0].values);
    record.attention[1].position[0] = 7;                                      // another token
    record.attention[2].values = record.attention[2].values.narrow(0, 0, 5);  // fewer of them
    record.attention[2].row = router.row.narrow(0, 0, 5);
    record.attention[2].position = router.position.narrow(0, 0, 5);
    dump.add(dump.prepare(record, {layers_, attention_layers}));
  }
  dump.finish();
  const SafetensorsFile file = shard("language_model-000000.safetensors");
  EXPECT_TRUE(at::equal(file.tensors.at("0.attention_stats"), at::cat(values)));
  EXPECT_FALSE(file.tensors.contains("1.attention_stats"));
  EXPECT_FALSE(file.tensors.contains("2.attention_stats"));
  EXPECT_EQ(nlohmann::json::parse(file.metadata.at("attention_columns")),
            nlohmann::json({{"0", {"entropy", "received"}}}));
}

}  // namespace
}  // namespace moetap::plugin
