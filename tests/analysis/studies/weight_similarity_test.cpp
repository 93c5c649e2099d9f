#include "analysis/studies/weight_similarity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Names = std::vector<std::string>;

ComponentShape three_layers() {
  ComponentShape shape;
  shape.name = "language_model";
  for (const char* id : {"1", "2", "3"}) shape.layers.push_back({id, "", 2, 0, 1, "softmax"});
  return shape;
}

void give(Study& study, WeightMatrix::Kind kind, int64_t layer, int64_t expert, const std::string& name,
          const std::vector<float>& values, int64_t rows) {
  WeightMatrix weight;
  weight.kind = kind;
  weight.layer = layer;
  weight.expert = expert;
  weight.name = name;
  weight.rows = rows;
  weight.columns = static_cast<int64_t>(values.size()) / rows;
  weight.values = values;
  study.observe(weight);
}

TEST(WeightSimilarity, ComparesRoutersAndExperts) {
  using Kind = WeightMatrix::Kind;
  StudyOptions options;
  options.delta_max = 1;
  const auto study = make_weight_similarity(three_layers(), options),
             other = make_weight_similarity(three_layers(), options);
  give(*study, Kind::kRouter, 0, -1, "layers.1.gate.weight", {1, 0, 2, 0, 1, 2}, 2);
  give(*other, Kind::kRouter, 1, -1, "layers.2.gate.weight", {2, 0, 4, 0, 2, 4}, 2);
  give(*study, Kind::kRouter, 2, -1, "layers.3.gate.weight", {1, 1}, 2);
  for (int64_t layer = 0; layer < 3; ++layer) {
    const std::string path = "layers." + std::to_string(layer + 1) + ".experts.";
    give(*study, Kind::kExpert, layer, 0, path + "0.w1.weight", {1, static_cast<float>(layer)}, 1);
    give(*other, Kind::kExpert, layer, 0, path + "0.w2.weight", {1}, 1);
    give(*other, Kind::kExpert, layer, 1, path + "1.w1.weight", {1, 0}, 1);
  }
  ByteSink sink;
  other->save(sink);
  ByteSource source(sink.bytes());
  const auto loaded = make_weight_similarity(three_layers(), options);
  loaded->load(source);
  loaded->merge(*study);
  const Result result = loaded->finalize();
  const Table &routers = result.tables.at(0), &experts = result.tables.at(1);
  EXPECT_EQ(column_names(routers), (Names{"component", "layer_a", "layer_b", "cosine", "column_norm_correlation"}));
  EXPECT_EQ(texts(routers, "layer_b"), (Names{"2", "3", "3"}));
  EXPECT_DOUBLE_EQ(reals(routers, "cosine")[0], 1);
  EXPECT_NEAR(reals(routers, "column_norm_correlation")[0], 1, 1e-12);
  EXPECT_TRUE(std::isnan(reals(routers, "cosine")[1]));  // another hidden size
  EXPECT_EQ(column_names(experts), (Names{"component", "layer_a", "layer_b", "delta", "experts", "cosine"}));
  EXPECT_EQ(texts(experts, "layer_a"), (Names{"1", "2"}));
  EXPECT_EQ(integers(experts, "experts"), (std::vector<int64_t>{2, 2}));
  // (1, 0 | 1) and (1, 1 | 1), then (1, 1 | 1) and (1, 2 | 1); the other expert is the same in all layers.
  EXPECT_DOUBLE_EQ(reals(experts, "cosine")[0], (2 / std::sqrt(2.0 * 3) + 1) / 2);
  EXPECT_DOUBLE_EQ(reals(experts, "cosine")[1], (4 / std::sqrt(3.0 * 6) + 1) / 2);
  EXPECT_NE(result.sentence.find("layers 1 and 2"), std::string::npos) << result.sentence;
}

TEST(WeightSimilarity, SaysThatThereIsNothingToCompare) {
  const Result result = make_weight_similarity(three_layers(), {})->finalize();
  EXPECT_EQ(result.tables.at(0).num_rows(), 0U);
  EXPECT_FALSE(result.sentence.empty());
}

}  // namespace
}  // namespace moetap::analysis::studies
