#include "hooks/routers/router_flow.h"

#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

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

TEST_F(Flow, PassesBranchesAndTuples) {
  follow(R"(
    flag = int(input.size(0)) > 3
    if flag:
        scores = torch.softmax(logits, -1)
    else:
        scores = torch.softmax(logits * 2.0, -1)
    pair = (scores, logits)
    weights, ids = torch.topk(pair[0], 2, -1)
    return weights, ids
)");
  ASSERT_TRUE(is_followed("ids"));
  EXPECT_EQ(fact("ids").role, Role::kIds);
  EXPECT_EQ(flow_->picks().size(), 1u);
}

TEST_F(Flow, CarriesValuesAroundLoops) {
  follow(R"(
    scores = logits
    for i in range(int(input.size(0))):
        scores = torch.softmax(scores, -1)
    best, ids = torch.topk(scores, 2, -1)
    return ids
)");
  EXPECT_EQ(fact("ids").role, Role::kIds);
  EXPECT_EQ(fact("ids").scoring, "softmax");
}

TEST(ListElements, AreTheTensorsOfAList) {
  const jit::Module model = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    joined = torch.cat([x, y], -1)
    return joined
)"});
  const MethodGraph graph(model, "forward");
  jit::Node* cat = node_of_kind(graph, "aten::cat");
  EXPECT_EQ(list_elements(cat->input(0)), (std::vector<jit::Value*>{value_named(graph, "x"), value_named(graph, "y")}));
  EXPECT_EQ(list_elements(cat->output()), std::vector<jit::Value*>{cat->output()});
}

}  // namespace
}  // namespace moetap::hooks::testing
