#include "analysis/studies/switch_fraction.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Names = std::vector<std::string>;

TEST(SwitchFraction, ComparesSlotsPlaceByPlace) {
  RoutingTokens a = one_layer(4, {{0, 1}, {2, 3}, {0, -1}, {1, 2}}),
                b = one_layer(4, {{1, 0}, {2, 1}, {0, -1}, {1, 3}});
  a.sample = b.sample = {0, 0, 1, 1};
  const auto study = make_switch_fraction({a.shape(), b.shape(), "step1", "step2"}, {});
  study->observe(PairBatch{a.all(), b.all()});
  const Result result = study->finalize();
  const Table &switched = result.tables.at(0), &saturation = result.tables.at(1);
  EXPECT_EQ(column_names(switched), (Names{"run_a", "run_b", "component", "layer", "samples", "switch_fraction"}));
  EXPECT_EQ(integers(switched, "samples")[0], 2);
  EXPECT_DOUBLE_EQ(reals(switched, "switch_fraction")[0], (3.0 / 4 + 1.0 / 3) / 2);  // −1 against −1 is no slot
  EXPECT_EQ(saturation.name(), "saturation");
  EXPECT_EQ(column_names(saturation), (Names{"run", "last_run", "component", "layer", "samples", "position_match"}));
  EXPECT_DOUBLE_EQ(reals(saturation, "position_match")[0], 1 - (3.0 / 4 + 1.0 / 3) / 2);
  EXPECT_EQ(texts(switched, "run_b"), Names{"step2"});
}

TEST(SwitchFraction, IsTheSameForAnySplit) {
  std::mt19937 random(13);
  const RoutingTokens a = random_tokens(random);
  RoutingTokens b = a;
  for (RoutingLayer& layer : b.layers) std::shuffle(layer.ids.begin(), layer.ids.end(), random);
  expect_same_for_any_split([&] { return make_switch_fraction({a.shape(), b.shape(), "a", "b"}, {}); }, a, b, random);
}

LoggedEntry entry(int32_t run, int64_t doc_id, const std::string& layer, std::vector<int32_t> ids) {
  LoggedEntry entry;
  entry.run = run;
  entry.doc_id = doc_id;
  entry.task = "mme";
  entry.component = "vision_tower";
  LoggedLayer logged;
  logged.layer = layer;
  logged.selected_experts = std::move(ids);
  entry.layers.push_back(logged);
  return entry;
}

TEST(LoggedSwitchFraction, JoinsEntriesOfConsecutiveRuns) {
  const std::vector<LoggedEntry> entries = {entry(0, 7, "2", {0, 1, 2, 3}), entry(0, 8, "2", {0, 1}),
                                            entry(0, 7, "10", {4}),         entry(1, 7, "2", {0, 1, 2, 0}),
                                            entry(1, 8, "2", {1, 0, 3}),    entry(1, 7, "10", {4}),
                                            entry(2, 7, "2", {3, 1, 2, 3}), entry(2, 9, "10", {4})};
  const auto study = make_logged_switch_fraction({}, {}), other = make_logged_switch_fraction({}, {});
  for (size_t i = 0; i < entries.size(); ++i) (i % 2 == 0 ? study : other)->observe(entries[i]);
  ByteSink sink;
  other->save(sink);
  ByteSource source(sink.bytes());
  const auto loaded = make_logged_switch_fraction({}, {});
  loaded->load(source);
  study->merge(*loaded);
  const Result result = study->finalize();
  const Table& table = result.tables.at(0);
  EXPECT_EQ(texts(table, "run_a"), (Names{"0", "0", "1", "1"}));
  EXPECT_EQ(texts(table, "run_b"), (Names{"1", "1", "2", "2"}));
  EXPECT_EQ(texts(table, "layer"), (Names{"2", "10", "2", "10"}));
  EXPECT_EQ(integers(table, "samples"), (std::vector<int64_t>{1, 1, 1, 0}));
  EXPECT_EQ(reals(table, "switch_fraction")[0], 0.25);
  EXPECT_EQ(reals(table, "switch_fraction")[1], 0);
  EXPECT_EQ(reals(table, "switch_fraction")[2], 0.5);
  EXPECT_NE(reals(table, "switch_fraction")[3], reals(table, "switch_fraction")[3]);
  EXPECT_EQ(reals(result.tables.at(1), "position_match")[0], 0.75);  // run 0 against run 2
  ASSERT_EQ(result.notices.size(), 1U);                              // doc 8 has lists of two lengths
  EXPECT_NE(result.notices[0].find("1 list "), std::string::npos);
}

TEST(LoggedSwitchFraction, KeepsEntriesThatShareADocIdApart) {
  // Two ranks that both count from 0, and an entry that comes twice in a log.
  struct Logged {
    int32_t run, log;
    int64_t place, doc_id;
    std::vector<int32_t> ids;
  };
  const std::vector<Logged> logged = {{0, 0, 0, 0, {1, 1}}, {0, 1, 0, 0, {2, 2}}, {0, 1, 1, 0, {3, 3}},
                                      {0, 0, 1, 1, {5}},    {1, 0, 0, 0, {1, 1}}, {1, 1, 0, 0, {2, 4}},
                                      {1, 1, 1, 0, {4, 4}}, {1, 0, 1, 1, {5}},    {0, 1, 2, 2, {6}},
                                      {0, 0, 2, 2, {6}},    {1, 0, 2, 2, {6}}};
  std::vector<Result> results;
  for (const bool reversed : {false, true}) {
    const auto study = make_logged_switch_fraction({}, {}), other = make_logged_switch_fraction({}, {});
    for (size_t i = 0; i < logged.size(); ++i) {
      const Logged& of = logged[reversed ? logged.size() - 1 - i : i];
      LoggedEntry made = entry(of.run, of.doc_id, "0", of.ids);
      made.log = of.log;
      made.place = of.place;
      (i % 3 == 0 ? study : other)->observe(made);
    }
    study->merge(*other);
    results.push_back(study->finalize());
  }
  expect_same_result(results[0], results[1]);
  const Table& table = results[0].tables.at(0);
  EXPECT_EQ(integers(table, "samples"), (std::vector<int64_t>{4}));
  EXPECT_EQ(reals(table, "switch_fraction")[0], (0 + .5 + 1 + 0) / 4);
  ASSERT_EQ(results[0].notices.size(), 1U);
  EXPECT_EQ(results[0].notices[0].find("2 doc_ids come more than once"), 0U) << results[0].notices[0];
  EXPECT_NE(results[0].notices[0].find("1 that one run has more often"), std::string::npos) << results[0].notices[0];
}

}  // namespace
}  // namespace moetap::analysis::studies
