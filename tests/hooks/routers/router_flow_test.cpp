#include "hooks/routers/router_flow.h"

#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

class Flow : public FollowedProjection {};

TEST_F(Flow, GivesRolesToScoresIdsAndWeights) {
  follow(R"(
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    total = weights.sum(-1, keepdim=True)
    share = weights / total
    mask = ids == 3
    hot = torch.one_hot(ids, 6)
    order = torch.argsort(ids.view(-1))
    chosen = self.expert_weights[ids]
    return share, mask, hot, order, chosen
)");
  EXPECT_EQ(fact("logits").role, Role::kScore);
  EXPECT_EQ(fact("logits").score, nullptr);
  EXPECT_EQ(fact("scores").role, Role::kScore);
  EXPECT_EQ(fact("scores").score, value("scores"));
  EXPECT_EQ(fact("scores").logits, value("logits"));
  EXPECT_EQ(fact("scores").scoring, "softmax");
  EXPECT_EQ(fact("weights").role, Role::kSlot);
  EXPECT_EQ(fact("weights").num_slots, 2);
  EXPECT_EQ(fact("ids").role, Role::kIds);
  EXPECT_EQ(fact("total").role, Role::kStat);
  EXPECT_EQ(fact("share").role, Role::kSlot);
  EXPECT_EQ(fact("share").logits, value("logits"));
  EXPECT_EQ(fact("mask").role, Role::kMask);
  EXPECT_TRUE(fact("mask").per_expert);
  EXPECT_TRUE(fact("hot").one_hot);
  EXPECT_EQ(fact("order").role, Role::kOrder);
  EXPECT_FALSE(fact("order").aligned);
  EXPECT_EQ(fact("chosen").role, Role::kChosen);
  ASSERT_EQ(flow_->picks().size(), 1u);
  EXPECT_EQ(flow_->picks()[0].k, 2);
  EXPECT_EQ(flow_->picks()[0].dim, -1);
  EXPECT_EQ(flow_->picks()[0].indices, value("ids"));
  EXPECT_EQ(flow_->picks()[0].source.num_experts, kExperts);
}

}  // namespace
}  // namespace moetap::hooks::testing
