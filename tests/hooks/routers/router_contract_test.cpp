// The transfer functions in hooks/routers/router_contract.cpp.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class RouterContract : public FollowedProjection {};

TEST_F(RouterContract, KeepsWeightsThatAreMultipliedByFactors) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    share = torch.sigmoid(x[:, 0])
    shares = torch.einsum("tk,t->tk", [weights, share])
    chosen = self.expert_weights[ids]
    outs = torch.einsum("td,tkdf->tkf", [x, chosen])
    return torch.einsum("tk,tkf->tf", [shares, outs])
)");
  EXPECT_EQ(fact("shares").role, Role::kSlot);
  EXPECT_TRUE(fact("shares").aligned);
  EXPECT_EQ(count(EventKind::kAppliesWeights), 1);
  EXPECT_EQ(count(EventKind::kChoosesParameters), 1);
}

TEST_F(RouterContract, SpreadsSlotsByOneHots) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    hot = torch.one_hot(ids, 6).to(float32)
    gates = torch.einsum("tk,tke->te", [weights, hot])
    every = torch.einsum("td,edf->tef", [x, self.expert_weights])
    return torch.einsum("te,tef->tf", [gates, every])
)");
  EXPECT_EQ(fact("gates").role, Role::kScore);
  EXPECT_EQ(fact("gates").ids, std::vector<jit::Value*>{value("ids")});
  EXPECT_EQ(count(EventKind::kAppliesWeights), 1);
}

TEST_F(RouterContract, SeesLookUpsInMemories) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    found = torch.einsum("tk,tkdf->tdf", [weights, self.expert_weights[ids]])
    return found
)");
  EXPECT_EQ(count(EventKind::kLooksUp), 1);
  EXPECT_EQ(count(EventKind::kAppliesWeights), 0);
}

}  // namespace
}  // namespace moetap::hooks::testing
