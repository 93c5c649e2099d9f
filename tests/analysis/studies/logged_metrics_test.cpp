#include "analysis/studies/logged_metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Names = std::vector<std::string>;

LoggedEntry entry(const std::string& category, const std::string& layer, double entropy, std::vector<double> margins,
                  std::vector<int64_t> dist, double diversity = kUndefined) {
  LoggedEntry entry;
  entry.task = "mme";
  entry.component = "vision_tower";
  entry.category = category;
  LoggedLayer logged;
  logged.layer = layer;
  logged.entropy_topk = entropy;
  logged.diver_loss = diversity;
  logged.margins = std::move(margins);
  logged.dist_top1 = std::move(dist);
  entry.layers.push_back(logged);
  return entry;
}

TEST(NormalisedEntropy, IsOverLnE) {
  EXPECT_NEAR(normalised_entropy({3, 3, 3, 3}), 1, 1e-8);
  EXPECT_NEAR(normalised_entropy({7, 0}), 0, 1e-8);
  EXPECT_NEAR(normalised_entropy({1, 1, 0, 0}), 0.5, 1e-8);
  EXPECT_TRUE(std::isnan(normalised_entropy({7})));
  EXPECT_TRUE(std::isnan(normalised_entropy({0, 0})));
}

TEST(LoggedMetrics, AveragesOverEntries) {
  const std::vector<LoggedEntry> entries = {
      entry("OCR", "2", 1, {0.1, 0.3}, {2, 2}, 0.5), entry("OCR", "2", 0.5, {0.6}, {4, 0}, 0.25),
      entry("", "2", kUndefined, {}, {1, 1}), entry("color", "10", 0.75, {0.4}, {1, 1})};
  for (const bool reversed : {false, true}) {
    const auto study = make_logged_metrics({}, {}), other = make_logged_metrics({}, {});
    for (size_t i = 0; i < entries.size(); ++i) {
      ((i % 2 == 0) == reversed ? study : other)->observe(entries[reversed ? entries.size() - 1 - i : i]);
    }
    ByteSink sink;
    other->save(sink);
    ByteSource source(sink.bytes());
    const auto loaded = make_logged_metrics({}, {});
    loaded->load(source);
    study->merge(*loaded);
    const Result result = study->finalize();
    const Table &metrics = result.tables.at(0), &categories = result.tables.at(1), &diversity = result.tables.at(2);
    EXPECT_EQ(column_names(metrics), (Names{"run", "task", "component", "layer", "entries", "entropy_topk", "margin"}));
    EXPECT_EQ(texts(metrics, "layer"), (Names{"2", "10"}));
    EXPECT_EQ(integers(metrics, "entries"), (std::vector<int64_t>{3, 1}));
    EXPECT_DOUBLE_EQ(reals(metrics, "entropy_topk")[0], 0.75);
    EXPECT_DOUBLE_EQ(reals(metrics, "margin")[0], 0.4);  // means 0.2 and 0.6
    EXPECT_EQ(column_names(categories),
              (Names{"run", "component", "category", "layer", "entries", "dist_entropy", "entropy_topk"}));
    EXPECT_EQ(texts(categories, "category"), (Names{"OCR", "color", "unknown"}));
    EXPECT_NEAR(reals(categories, "dist_entropy")[0], 0.5, 1e-8);
    EXPECT_NEAR(reals(categories, "dist_entropy")[2], 1, 1e-8);
    EXPECT_TRUE(std::isnan(reals(categories, "entropy_topk")[2]));
    EXPECT_EQ(column_names(diversity), (Names{"run", "task", "component", "layer", "entries", "diver_loss"}));
    EXPECT_EQ(integers(diversity, "entries"), std::vector<int64_t>{2});
    EXPECT_DOUBLE_EQ(reals(diversity, "diver_loss")[0], 0.375);
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
