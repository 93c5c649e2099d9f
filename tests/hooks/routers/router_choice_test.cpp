// The transfer functions in hooks/routers/router_choice.cpp.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class RouterChoice : public FollowedProjection {};

TEST_F(RouterChoice, SeesDispatchedRows) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    rows, slots = torch.where(ids == 3)
    outputs = torch.matmul(x[rows], self.expert_weights[3])
    return outputs * weights[rows, slots].unsqueeze(-1)
)");
  EXPECT_EQ(count(EventKind::kDispatches), 1);
  EXPECT_EQ(count(EventKind::kAppliesWeights), 1);
  EXPECT_EQ(count(EventKind::kChoosesTokens), 0);
}

TEST_F(RouterChoice, SeesTokensChosenFromBeforeTheProjection) {
  follow(R"(
    ids = torch.topk(logits.amax(-1), 2, 0)[1]
    return x[ids]
)");
  EXPECT_EQ(count(EventKind::kChoosesTokens), 1);
  EXPECT_EQ(count(EventKind::kDispatches), 0);
}

TEST_F(RouterChoice, SeesSampling) {
  follow(R"(
    shares = torch.softmax(torch.topk(logits, 3, -1)[0], -1)
    drawn = torch.multinomial(shares, 1)
    return shares, drawn
)");
  EXPECT_EQ(count(EventKind::kSamples), 1);
}

TEST_F(RouterChoice, MarksPicksOfPickedValues) {
  follow(R"(
    values, places = torch.topk(logits, 3, -1)
    best, at = torch.topk(values, 2, -1)
    ids = torch.gather(places, -1, at)
    return ids
)");
  EXPECT_EQ(flow_->picks().size(), 2u);
  EXPECT_TRUE(fact("ids").nested);
}

TEST_F(RouterChoice, LosesTheOrderOfTokensInSortedWeights) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    order = torch.argsort(ids.view(-1))
    sorted_weights = weights.view(-1)[order]
    return sorted_weights
)");
  EXPECT_TRUE(fact("weights").aligned);
  EXPECT_FALSE(fact("sorted_weights").aligned);
  EXPECT_EQ(fact("sorted_weights").weights, std::vector<jit::Value*>{value("weights")});
}

TEST_F(RouterChoice, KnowsTheNumberOfPicks) {
  follow(R"(
    order = torch.argsort(logits, -1, True)
    best = torch.argmax(logits, -1)
    first = order[:, :3]
    return best, first
)");
  ASSERT_EQ(flow_->picks().size(), 2u);
  EXPECT_EQ(flow_->picks()[0].k, std::nullopt) << "a sort orders all experts";
  EXPECT_TRUE(flow_->picks()[0].over_all);
  EXPECT_EQ(flow_->picks()[1].k, 1);
  EXPECT_EQ(fact("first").num_slots, 3);
  EXPECT_EQ(fact("first").ids, std::vector<jit::Value*>{value("first")});
}

TEST_F(RouterChoice, SpreadsWeightsOverTheExperts) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    dense = torch.zeros_like(logits).scatter(-1, ids, weights)
    mask = torch.zeros_like(logits).scatter(-1, ids, 1.0)
    return dense, mask
)");
  EXPECT_EQ(fact("dense").role, Role::kScore);
  EXPECT_EQ(fact("dense").ids, std::vector<jit::Value*>{value("ids")});
  EXPECT_EQ(fact("mask").role, Role::kMask);
}

// A comparison with one number is one expert's mask, one with all numbers is every expert's.
TEST_F(RouterChoice, TellsOneExpertsMaskFromAll) {
  follow(R"(
    ids = torch.topk(logits, 2, -1)[1]
    one = ids == 3
    all = ids.unsqueeze(-1) == torch.tensor([0, 1, 2, 3, 4, 5])
    above = logits > 0.5
    return one, all, above
)");
  EXPECT_TRUE(fact("one").per_expert);
  EXPECT_FALSE(fact("one").one_hot);
  EXPECT_TRUE(fact("all").one_hot);
  EXPECT_FALSE(fact("all").per_expert);
  EXPECT_EQ(fact("above").role, Role::kMask);
  EXPECT_FALSE(fact("above").per_expert) << "scores are no ids";
}

}  // namespace
}  // namespace moetap::hooks::testing
