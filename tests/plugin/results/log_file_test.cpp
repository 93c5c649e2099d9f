#include "plugin/results/log_file.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/plugin/results/log_values.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;

TEST(LogFileTest, AForwardIsAnEntryWhereAskedFor) {
  const auto model = describe({{"language_model", "0"}});
  const at::Tensor logits = random_logits(2, {2, 3, 4});
  ForwardRecord record = forward_of(model, {0, 1}, 4.0);
  record.routers = {observe_router({.hook = 0}, logits)};
  ForwardRecord next = forward_of(model, {2, 3}, 1.0);
  next.routers = {observe_router({.hook = 0}, logits.neg())};
  Config config;
  config.log_entries = LogEntries::kForward;
  SyntheticRun run(config);
  run.write(model, {record, next});

  const json logs = run.log().at("logs");
  ASSERT_EQ(logs.size(), 2u);
  EXPECT_EQ(logs.at(1).at("doc_id"), 1);
  const json layer = vision(logs.at(0)).at("0");
  EXPECT_EQ(vision(logs.at(0)).at("time_inference"), 4.0);
  EXPECT_EQ(layer.at("selected_experts").size(), 2u * 3 * 2);
  EXPECT_EQ(layer.at("router_magine").size(), 3u);  // those of the first sample only
  const at::Tensor p = at::softmax(logits.to(at::kDouble), -1);
  const at::Tensor f = at::one_hot(p.argmax(-1), 4).to(at::kDouble).mean(1);
  EXPECT_NEAR(layer.at("balance_loss").get<double>(), (f * p.mean(1)).mean().item<double>() * 16, 2e-6);
}

TEST(LogFileTest, SamplesMayComeInAnyOrderAndComeBack) {
  const auto model = describe({{"language_model", "0"}});
  for (const LogEntries log_entries : {LogEntries::kRow, LogEntries::kForward}) {
    std::vector<ForwardRecord> records;
    int64_t seed = 40;
    for (const int64_t sample : {3, 9, 5, 3, 9, 5, 1, 12, 3}) {
      ForwardRecord record = forward_of(model, {sample}, 1.0);
      record.labelled = true;
      record.routers = {observe_router({.hook = 0}, random_logits(seed++, {1, 2, 4}))};
      records.push_back(record);
    }
    Config config;
    config.log_entries = log_entries;
    SyntheticRun run(config);
    run.write(model, records);
    const json logs = run.log().at("logs");
    ASSERT_EQ(logs.size(), 5u);
    std::multiset<double> times;
    for (const json& entry : logs) times.insert(vision(entry).at("time_inference").get<double>());
    EXPECT_EQ(times, (std::multiset<double>{1.0, 1.0, 2.0, 2.0, 3.0}));
  }
}

TEST(LogFileTest, ASampleThatTwoRowsOfALabelNameKeepsBoth) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {4, 4});
  record.labelled = true;
  record.routers = {observe_router({.hook = 0}, random_logits(10, {2, 3, 4}))};
  SyntheticRun run;
  run.write(model, {record, record});
  const json logs = run.log().at("logs");
  ASSERT_EQ(logs.size(), 1u);
  EXPECT_EQ(logs.at(0).at("doc_id"), 4);
  EXPECT_EQ(vision(logs.at(0)).at("0").at("selected_experts").size(), 2u * 2 * 3 * 2);
}

}  // namespace
}  // namespace moetap::plugin
