// The transfer functions in hooks/routers/router_combine.cpp.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class RouterCombine : public FollowedProjection {};

TEST_F(RouterCombine, SeesChosenParametersMeetHiddenStates) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    chosen = self.expert_weights[ids]
    outputs = torch.matmul(x.unsqueeze(1).unsqueeze(1), chosen).squeeze(2)
    return (outputs * weights.unsqueeze(-1)).sum(1)
)");
  EXPECT_EQ(count(EventKind::kChoosesParameters), 1);
  EXPECT_EQ(count(EventKind::kAppliesWeights), 1);
  EXPECT_FALSE(is_followed("outputs")) << "what the experts made is no router value";
}

TEST_F(RouterCombine, SeesDenseMixtures) {
  follow(R"(
    shares = torch.softmax(logits, -1)
    return x * shares[:, :1]
)");
  EXPECT_EQ(count(EventKind::kDenseWeights), 1);
  EXPECT_TRUE(flow_->picks().empty());
}

TEST_F(RouterCombine, MasksBeforeAndAfterTheScoring) {
  follow(R"(
    ids = torch.topk(logits, 2, -1)[1]
    hot = torch.one_hot(ids, 6).sum(1)
    before = torch.softmax(logits * hot, -1)
    scores = torch.sigmoid(logits)
    after = scores * hot
    return before, after
)");
  EXPECT_TRUE(fact("before").masked);
  EXPECT_FALSE(fact("after").masked);
  EXPECT_EQ(fact("after").score, value("scores"));
  EXPECT_EQ(fact("after").picks.size(), 1u) << "dense weights depend on the pick";
}

TEST_F(RouterCombine, SeesLookUps) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    found = (self.expert_scale[ids] * weights).sum(1)
    return found
)");
  EXPECT_EQ(count(EventKind::kLooksUp), 1);
  EXPECT_EQ(count(EventKind::kChoosesParameters), 0);
}

}  // namespace
}  // namespace moetap::hooks::testing
