#include "plugin/results/run_figures.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

class RunFiguresTest : public ::testing::Test {
 protected:
  void add(const at::Tensor& logits, int64_t hook, bool generation) {
    ForwardRecord record = forward_of(model_, {0});
    record.generation = generation;
    record.routers = {observe_router({.hook = hook}, logits)};
    layers_.place(*model_, hook, 4);
    const LayerTable attention(hooks::HookKind::kAttention);
    summary_.add(log_forward(record, {layers_, attention}, {}).summary);
  }

  const std::shared_ptr<ModelDescription> model_ =
      describe({{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
  LayerTable layers_;
  RunSummary summary_;
};

TEST_F(RunFiguresTest, PromptAndGenerationAreCountedTogether) {
  const at::Tensor logits = at::tensor({9.f, 8.f, 0.f, 0.f}).reshape({1, 1, 4});
  add(logits.expand({1, 3, 4}), 0, false);
  add(logits, 0, true);
  add(at::tensor({9.f, 8.f, 0.f, 0.f, 0.f, 0.f, 9.f, 8.f}).reshape({1, 2, 4}), 1, false);
  layers_.add_silent(*model_, "forward");
  const RunFigures figures = run_figures(summary_, layers_, {});
  ASSERT_EQ(figures.layers.size(), 3u);
  const double* first = figures.layers[0].values;
  EXPECT_EQ(figures.layers[0].layer, "0");
  EXPECT_EQ(first[0], 4);                                 // tokens
  EXPECT_NEAR(first[1], std::sqrt(16.0 / 3) / 2, 1e-12);  // selections 4, 4, 0, 0
  EXPECT_GT(first[2], 0);
  EXPECT_EQ(first[3], 2);  // 4 over a mean of 2
  EXPECT_EQ(first[4], 2);
  const double* second = figures.layers[1].values;
  EXPECT_EQ(second[0], 2);
  EXPECT_EQ(second[1], 0);
  EXPECT_EQ(second[3], 1);
  EXPECT_EQ(second[4], 0);
  const double* silent = figures.layers[2].values;
  EXPECT_EQ(silent[0], 0);
  for (size_t i = 1; i < kNumLayerFigures; ++i) EXPECT_TRUE(std::isnan(silent[i])) << i;
}

TEST_F(RunFiguresTest, TheTextIsPrometheus) {
  RunFigures figures;
  figures.counters.forwards = 7;
  figures.layers = {{"language_model", "0", {12, 0.25, 1.5, 2, 0}}, {"a\"b", "1", {0, NAN, NAN, NAN, NAN}}};
  const std::string text = prometheus_text(figures, {{"task", "x\\y"}});
  EXPECT_NE(text.find("# TYPE moetap_forwards_total counter\nmoetap_forwards_total{task=\"x\\\\y\"} 7\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("# TYPE moetap_router_load_cv gauge\n"
                      "moetap_router_load_cv{task=\"x\\\\y\",component=\"language_model\",layer=\"0\"} 0.25\n"
                      "moetap_router_load_cv{task=\"x\\\\y\",component=\"a\\\"b\",layer=\"1\"} NaN\n"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace moetap::plugin
