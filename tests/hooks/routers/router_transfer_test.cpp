// The transfer functions in hooks/routers/router_transfer.cpp.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class RouterTransfer : public FollowedProjection {};

TEST_F(RouterTransfer, KnowsThatABiasOnlySelects) {
  follow(R"(
    scores = torch.sigmoid(logits)
    biased = scores + self.expert_scale
    picked = torch.topk(biased, 2, -1)[1]
    weights = torch.gather(scores, -1, picked)
    return weights
)");
  EXPECT_TRUE(fact("biased").biased);
  EXPECT_EQ(fact("biased").score, value("scores"));
  EXPECT_EQ(fact("weights").role, Role::kSlot);
  EXPECT_FALSE(fact("weights").biased);
  EXPECT_EQ(fact("weights").score, value("scores"));
}

TEST_F(RouterTransfer, KeepsTheLogitsThatEnterTheScoring) {
  follow(R"(
    capped = torch.tanh(logits / 30.0) * 30.0
    wide = capped.to(float32)
    scores = torch.softmax(wide, -1)
    return scores
)");
  EXPECT_EQ(fact("scores").logits, value("wide"));
}

TEST_F(RouterTransfer, FindsGroups) {
  follow(R"(
    scores = torch.softmax(logits, -1)
    grouped = scores.view(-1, 3, 2)
    joined = grouped.view(-1, 6)
    return grouped, joined
)");
  EXPECT_FALSE(fact("scores").grouped);
  EXPECT_TRUE(fact("grouped").grouped);
  EXPECT_FALSE(fact("joined").grouped);
}

TEST_F(RouterTransfer, FollowsAxes) {
  follow(R"(
    turned = logits.t()
    scores = torch.softmax(turned, 0)
    weights, ids = torch.topk(scores, 2, 0)
    return weights, ids
)");
  EXPECT_EQ(fact("turned").expert_dim, -2);
  EXPECT_EQ(fact("scores").expert_dim, -2);
  EXPECT_EQ(flow_->picks().at(0).dim, 0);
}

TEST_F(RouterTransfer, NamesTheScoring) {
  follow(R"(
    soft = torch.softmax(logits, -1)
    rooted = torch.softplus(logits).sqrt()
    weights = torch.topk(logits, 2, -1)[0]
    late = torch.sigmoid(weights)
    return soft, rooted, late
)");
  EXPECT_EQ(fact("soft").scoring, "softmax");
  EXPECT_EQ(fact("rooted").scoring, "sqrtsoftplus");
  EXPECT_EQ(fact("late").slot_scoring, "sigmoid");
  EXPECT_EQ(fact("late").score, nullptr) << "the slots are scored, not the experts";
}

}  // namespace
}  // namespace moetap::hooks::testing
