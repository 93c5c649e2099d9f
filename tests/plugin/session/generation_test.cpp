#include "plugin/session/generation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "plugin/session/forward_recorder.h"
#include "tests/plugin/support/recorded_run.h"

namespace moetap::plugin {
namespace {

using Samples = std::vector<int64_t>;

/// Ends a forward that continues the prompt if the follower allows it; false: the forward starts new samples.
bool step(GenerationFollower& follower, const QueryTokens& query) {
  const bool continues = follower.continues(query);
  follower.ended(query, continues ? follower.samples() : Samples{99});
  return continues;
}

TEST(GenerationFollower, OneTokenContinuesThePromptRowByRow) {
  GenerationFollower follower;
  follower.ended({2, 5, 0}, {3, 4});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(step(follower, {2, 1, 0}));
  EXPECT_EQ(follower.samples(), Samples({3, 4}));
  EXPECT_FALSE(follower.continues({2, 4, 0}));  // a new prompt
  EXPECT_FALSE(follower.continues({1, 1, 0}));  // another batch
}

TEST(GenerationFollower, NothingIsContinuedBeforeAPrompt) {
  GenerationFollower follower;
  EXPECT_FALSE(step(follower, {1, 1, 0}));
  EXPECT_FALSE(step(follower, {1, 1, 0}));
}

TEST(GenerationFollower, AMaskOverTheCacheMustGrowByAColumn) {
  GenerationFollower follower;
  follower.ended({1, 5, 5}, {0});
  EXPECT_TRUE(step(follower, {1, 1, 6}));
  EXPECT_TRUE(step(follower, {1, 1, 7}));
  EXPECT_FALSE(step(follower, {1, 1, 12}));  // the cache of another request
  EXPECT_TRUE(follower.continues({1, 1, 8}));
  EXPECT_TRUE(follower.continues({1, 1, 8}));  // asking changes nothing: a step that threw may come again
  EXPECT_TRUE(step(follower, {1, 1, 1}));      // a mask of the query alone says nothing of the cache
  EXPECT_TRUE(step(follower, {1, 1, 9}));
}

TEST(GenerationFollower, AStaticCacheKeepsItsMask) {
  GenerationFollower follower;
  follower.ended({1, 5, 64}, {0});
  EXPECT_TRUE(step(follower, {1, 1, 64}));
  EXPECT_TRUE(step(follower, {1, 1, 64}));
  EXPECT_FALSE(step(follower, {1, 1, 32}));
}

TEST(GenerationFollower, ForwardsThatAreNoPromptChangeNothing) {
  GenerationFollower follower;
  follower.ended({1, 5, 0}, {7});
  follower.ended({0, 0, 0}, {8});
  follower.ended({1, 1, 12}, {9});  // a step of another request
  EXPECT_TRUE(follower.continues({1, 1, 0}));
  EXPECT_EQ(follower.samples(), Samples({7}));
}

/// One forward of a host with a cache of `cached` tokens; `ids`: undefined, it passes embeddings.
void forward(const std::shared_ptr<ModelBinding>& binding, int64_t batch, int64_t length, int64_t cached,
             bool with_ids = true) {
  const at::Tensor ids = with_ids ? at::zeros({batch, length}, at::kLong) : at::Tensor();
  const at::Tensor mask = at::ones({batch, cached + length}, at::kLong);
  ForwardRecorder recorder(binding, "forward", c10::List<std::optional<at::Tensor>>({ids, mask}));
  const int64_t tokens = batch * length;
  recorder.router(0, {at::zeros({tokens, 4}), {}, {at::zeros({tokens, 1}, at::kLong)}, {}, -1, "slots"});
  recorder.end();
}

Config following() {
  Config config;
  config.unlabelled = Unlabelled::kFollow;
  return config;
}

TEST(Generation, UnlabelledStepsFollowTheirPrompt) {
  RecordedRun run(following());
  const auto binding = ModelRegistry::get().find(run.bind(gates(1)));
  forward(binding, 2, 4, 0);
  forward(binding, 2, 1, 4);
  forward(binding, 2, 1, 5);
  forward(binding, 1, 3, 0);
  forward(binding, 1, 1, 3);
  forward(binding, 1, 1, 9);  // the mask tells that this is no step of that prompt
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 6u);
  const std::vector<Samples> samples = {{0, 1}, {0, 1}, {0, 1}, {2}, {2}, {3}};
  const std::vector<bool> generation = {false, true, true, false, true, false};
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i].samples, samples[i]) << i;
    EXPECT_EQ(records[i].generation, generation[i]) << i;
  }
  EXPECT_EQ(run.collected->counters.notices.size(), 1u);  // for the last forward
}

TEST(Generation, WithoutTheRuleEachForwardStartsSamples) {
  RecordedRun run;
  const auto binding = ModelRegistry::get().find(run.bind(gates(1)));
  forward(binding, 1, 4, 0);
  forward(binding, 1, 1, 4);
  const auto& records = run.close();
  EXPECT_EQ(records.at(1).samples, Samples{1});
  EXPECT_FALSE(records[1].generation);
}

TEST(Generation, StepsOfEmbeddingsAreTheLastColumnOfTheirMask) {
  RecordedRun run(following());
  const auto binding = ModelRegistry::get().find(run.bind(gates(1)));
  forward(binding, 2, 4, 0, /*with_ids=*/false);
  forward(binding, 2, 1, 4, /*with_ids=*/false);
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_TRUE(records[1].generation);
  EXPECT_EQ(records[1].samples, Samples({0, 1}));
  ASSERT_EQ(records[1].routers.size(), 1u);
  EXPECT_TRUE(records[1].routers[0].attributed);
  EXPECT_TRUE(at::equal(records[1].routers[0].row, at::tensor({0, 1}, at::kLong)));
}

TEST(Generation, AStepThatThrewMayComeAgain) {
  RecordedRun run(following());
  const auto binding = ModelRegistry::get().find(run.bind(gates(1)));
  forward(binding, 1, 4, 0);
  {
    const c10::List<std::optional<at::Tensor>> arguments({at::zeros({1, 1}, at::kLong), at::ones({1, 5}, at::kLong)});
    ForwardRecorder thrown(binding, "forward", arguments);
  }
  forward(binding, 1, 1, 4);
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[1].samples, Samples{0});
  EXPECT_TRUE(records[1].generation);
  EXPECT_EQ(records[1].index, 2);
  EXPECT_EQ(run.collected->counters.aborted, 1);
}

TEST(Generation, ALabelledPromptIsTheLastPrompt) {
  RecordedRun run(following());
  const auto binding = ModelRegistry::get().find(run.bind(gates(1)));
  forward(binding, 1, 4, 0);
  run.recording->threads().label({{7}, false});
  forward(binding, 1, 4, 0);
  run.recording->threads().clear_label();
  forward(binding, 1, 1, 4);
  EXPECT_EQ(run.close().at(2).samples, Samples{7});
}

TEST(Generation, LabelsGoBeforeTheRule) {
  RecordedRun run(following());
  const auto binding = ModelRegistry::get().find(run.bind(gates(1)));
  forward(binding, 1, 4, 0);
  run.recording->threads().label({{9}, true});
  forward(binding, 1, 1, 4);
  run.recording->threads().clear_label();
  forward(binding, 1, 1, 4);
  const auto& records = run.close();
  EXPECT_EQ(records.at(1).samples, Samples{9});
  EXPECT_EQ(records.at(2).samples, Samples{0});
}

}  // namespace
}  // namespace moetap::plugin
