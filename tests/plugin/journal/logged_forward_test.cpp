#include "plugin/journal/logged_forward.h"

#include <gtest/gtest.h>

#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

class LoggedForwardTest : public ::testing::Test {
 protected:
  // Two routers in sequence, the second in a loop; a third in a tower whose tokens cannot be told apart by sample.
  ForwardRecord record(std::vector<int64_t> samples) const {
    const auto batch = static_cast<int64_t>(samples.size());
    ForwardRecord record = forward_of(model_, std::move(samples), 3.0);
    record.routers = {observe_router({.hook = 0}, seeded_logits(1, {batch, 3, 4})),
                      observe_router({.hook = 1}, seeded_logits(2, {batch, 3, 4})),
                      observe_router({.hook = 1, .call = 1}, seeded_logits(3, {batch, 3, 4})),
                      observe_router({.hook = 2, .attributed = false}, seeded_logits(4, {1, 5, 4}))};
    const auto first = [](const RouterRecord& router) { return router.selected.select(1, 0).contiguous(); };
    record.transitions = {
        {0, 1, analysis::observe_transition(first(record.routers[0]), first(record.routers[1]), {}, 4, 4)}};
    record.custom[{"", "0"}] = {{"flag", true}, {"number", int64_t{-3}}, {"real", 0.25}};
    return record;
  }

  LoggedForward log(const ForwardRecord& record, const Config& config = {}) {
    for (const RouterRecord& router : record.routers) layers_.place(*model_, router.hook, 4);
    return log_forward(record, {layers_, attention_layers_}, config);
  }

  static void expect_same(const SummaryPart& a, const SummaryPart& b) {
    EXPECT_EQ(a.forwards, b.forwards);
    EXPECT_EQ(a.generation, b.generation);
    ASSERT_EQ(a.routers.size(), b.routers.size());
    for (size_t i = 0; i < a.routers.size(); ++i) {
      EXPECT_EQ(a.routers[i].layer, b.routers[i].layer);
      EXPECT_EQ(a.routers[i].sums.top_k, b.routers[i].sums.top_k);
      EXPECT_EQ(a.routers[i].sums.has_pairs, b.routers[i].sums.has_pairs);
      EXPECT_TRUE(at::equal(a.routers[i].sums.words, b.routers[i].sums.words)) << i;
    }
    ASSERT_EQ(a.transitions.size(), b.transitions.size());
    for (size_t i = 0; i < a.transitions.size(); ++i) {
      EXPECT_EQ(a.transitions[i].to, b.transitions[i].to);
      EXPECT_TRUE(at::equal(a.transitions[i].sums.counts, b.transitions[i].sums.counts));
    }
  }

  std::shared_ptr<ModelDescription> model_ =
      describe({{"language_model", "0"}, {"language_model", "1"}, {"vision_tower", "0"}});
  LayerTable layers_, attention_layers_{hooks::HookKind::kAttention};
};

TEST_F(LoggedForwardTest, TheSummaryIsReadBackToTheLastBitFromPairsAndParts) {
  Config by_forward;
  by_forward.log_entries = LogEntries::kForward;
  for (const Config& config : {Config(), by_forward}) {
    for (const std::vector<int64_t>& samples : {std::vector<int64_t>{7}, std::vector<int64_t>{0, 1, 2}}) {
      LoggedForward forward = log(record(samples), config);
      ASSERT_TRUE(forward.summary.sums_in_parts);
      const std::string bytes = encode(forward.summary);
      expect_same(decode_summary_part(bytes, forward.shared, forward.parts), forward.summary);
      forward.summary.sums_in_parts = false;
      EXPECT_LT(2 * bytes.size(), encode(forward.summary).size());
    }
  }
}

TEST_F(LoggedForwardTest, WithoutPartsTheSummaryHoldsItsSums) {
  ForwardRecord without_samples = record({7});
  without_samples.samples.clear();
  ForwardRecord replays = without_samples;
  replays.replays = 5;
  for (const ForwardRecord& each : {replays, without_samples}) {
    const LoggedForward forward = log(each);
    EXPECT_TRUE(forward.parts.empty());
    EXPECT_FALSE(forward.summary.sums_in_parts);
    EXPECT_EQ(forward.summary.forwards, each.replays > 0 ? 5 : 1);
    expect_same(decode_summary_part(encode(forward.summary), {}, {}), forward.summary);
  }
}

TEST_F(LoggedForwardTest, APartIsReadBack) {
  const LoggedForward forward = log(record({4, 9}));
  ASSERT_EQ(forward.parts.size(), 2u);
  const LogPart& part = forward.parts[1];
  EXPECT_EQ(part.duration_s, 1.5);
  const LogPart read = decode_log_part(encode(part));
  EXPECT_EQ(read.samples, (std::vector<int64_t>{9}));
  EXPECT_EQ(read.duration_s, part.duration_s);
  EXPECT_EQ(read.custom, part.custom);
  ASSERT_EQ(read.routers.size(), 2u);  // the two calls of the loop are one router; the tower's router is shared
  EXPECT_EQ(read.routers[1].selected, part.routers[1].selected);
  EXPECT_EQ(read.routers[1].selected.size(), 2u * 3 * 2);
  EXPECT_EQ(forward.shared.routers.size(), 1u);
}

TEST_F(LoggedForwardTest, AHookWithoutAPlaceIsRefused) {
  const LayerTable none;
  EXPECT_THROW(log_forward(record({0}), {none, none}, Config()), std::out_of_range);
}

}  // namespace
}  // namespace moetap::plugin
