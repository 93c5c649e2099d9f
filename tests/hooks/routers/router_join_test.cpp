// The transfer functions in hooks/routers/router_join.cpp.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class RouterJoin : public FollowedProjection {};

TEST_F(RouterJoin, KeepsSlotsThatAreJoinedAgain) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    joined = torch.cat([weights[:, :1], weights[:, :1]], -1)
    return joined
)");
  EXPECT_EQ(fact("joined").role, Role::kSlot);
  EXPECT_TRUE(fact("joined").aligned);
  EXPECT_EQ(fact("joined").weights, std::vector<jit::Value*>{value("joined")});
}

TEST_F(RouterJoin, KnowsThePlacesOfSlotsThatChangeThem) {
  follow(R"(
    weights, ids = torch.topk(logits, 2, -1)
    same = torch.stack([ids[:, 0], ids[:, 1]], 1)
    turned = torch.stack([ids[:, 1], ids[:, 0]], 1)
    twice = torch.stack([ids[:, 0], ids[:, 0]], 1)
    return same, turned, twice
)");
  EXPECT_TRUE(fact("same").aligned);
  EXPECT_TRUE(fact("turned").aligned);
  EXPECT_EQ(fact("turned").ids, std::vector<jit::Value*>{value("turned")});
  EXPECT_TRUE(fact("twice").rewritten) << "one slot is missing";
}

TEST_F(RouterJoin, SetsSharedExpertsApart) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    every = torch.cat([weights, torch.ones_like(weights[:, :1])], -1)
    return every
)");
  EXPECT_EQ(fact("every").slots_alone, value("weights"));
  EXPECT_FALSE(fact("every").slots_behind);
}

TEST_F(RouterJoin, AddsExpertsThatDoNothing) {
  follow(R"(
    more = torch.cat([logits, torch.zeros_like(logits[:, :2])], -1)
    scores = torch.softmax(more, -1)
    return scores
)");
  EXPECT_EQ(fact("scores").logits, value("more"));
}

}  // namespace
}  // namespace moetap::hooks::testing
