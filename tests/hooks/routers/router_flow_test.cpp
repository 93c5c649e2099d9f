#include "hooks/routers/router_flow.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

// Follows the projection by `gate` of a hidden state x [T, kHidden].
class Flow : public ::testing::Test {
 protected:
  void follow(const std::string& code) {
    const jit::Module model = compile({.type = "Model",
                                       .parameters = {{"gate", random_tensor({kExperts, kHidden}, 1)},
                                                      {"expert_weights", expert_weights()},
                                                      {"expert_scale", random_tensor({kExperts}, 2)}},
                                       .code = "def forward(self, input: Tensor):\n"
                                               "    x = torch.layer_norm(input, [8])\n"
                                               "    logits = torch.linear(x, self.gate)\n" +
                                               code});
    graph_ = std::make_unique<MethodGraph>(model, "forward");
    origins_ = std::make_unique<ValueOrigins>(*graph_);
    Projection projection;
    ASSERT_TRUE(match_projection(value_named(*graph_, "logits")->node(), *origins_, projection));
    flow_ = std::make_unique<RouterFlow>(*graph_, *origins_, projection, kExperts);
  }

  jit::Value* value(const std::string& name) const { return value_named(*graph_, name); }

  const Fact& fact(const std::string& name) const {
    const Fact* found = flow_->fact(value(name));
    if (found == nullptr) throw std::invalid_argument("nothing is known of " + name);
    return *found;
  }

  bool is_followed(const std::string& name) const { return flow_->fact(value(name)) != nullptr; }

  int64_t count(EventKind kind) const {
    return std::count_if(flow_->events().begin(), flow_->events().end(),
                         [&](const Event& e) { return e.kind == kind; });
  }

  std::unique_ptr<MethodGraph> graph_;
  std::unique_ptr<ValueOrigins> origins_;
  std::unique_ptr<RouterFlow> flow_;
};

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

TEST_F(Flow, KnowsThatABiasOnlySelects) {
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

TEST_F(Flow, KeepsTheLogitsThatEnterTheScoring) {
  follow(R"(
    capped = torch.tanh(logits / 30.0) * 30.0
    wide = capped.to(float32)
    scores = torch.softmax(wide, -1)
    return scores
)");
  EXPECT_EQ(fact("scores").logits, value("wide"));
}

TEST_F(Flow, FindsGroups) {
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

TEST_F(Flow, LosesTheOrderOfTokensInSortedWeights) {
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

TEST_F(Flow, SeesChosenParametersMeetHiddenStates) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    chosen = self.expert_weights[ids]
    outputs = torch.matmul(x.unsqueeze(1).unsqueeze(1), chosen).squeeze(2)
    return (outputs * weights.unsqueeze(-1)).sum(1)
)");
  EXPECT_EQ(count(EventKind::kChoosesParameters), 1);
  EXPECT_EQ(count(EventKind::kAppliesWeights), 1);
  EXPECT_EQ(count(EventKind::kReturned), 0) << "what the experts made is no router value";
  EXPECT_FALSE(is_followed("outputs"));
}

TEST_F(Flow, SeesDispatchedRows) {
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

TEST_F(Flow, SeesTokensChosenFromBeforeTheProjection) {
  follow(R"(
    ids = torch.topk(logits.amax(-1), 2, 0)[1]
    return x[ids]
)");
  EXPECT_EQ(count(EventKind::kChoosesTokens), 1);
  EXPECT_EQ(count(EventKind::kDispatches), 0);
}

TEST_F(Flow, SeesResults) {
  follow(R"(
    shares = torch.softmax(logits, -1)
    return shares
)");
  EXPECT_EQ(count(EventKind::kReturned), 1);
}

TEST_F(Flow, SeesSampling) {
  follow(R"(
    shares = torch.softmax(torch.topk(logits, 3, -1)[0], -1)
    drawn = torch.multinomial(shares, 1)
    return shares, drawn
)");
  EXPECT_EQ(count(EventKind::kSamples), 1);
}

TEST_F(Flow, SeesDenseMixtures) {
  follow(R"(
    shares = torch.softmax(logits, -1)
    return x * shares[:, :1]
)");
  EXPECT_EQ(count(EventKind::kDenseWeights), 1);
  EXPECT_TRUE(flow_->picks().empty());
}

TEST_F(Flow, MarksPicksOfPickedValues) {
  follow(R"(
    values, places = torch.topk(logits, 3, -1)
    best, at = torch.topk(values, 2, -1)
    ids = torch.gather(places, -1, at)
    return ids
)");
  EXPECT_EQ(flow_->picks().size(), 2u);
  EXPECT_TRUE(fact("ids").nested);
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

TEST_F(Flow, FollowsAxes) {
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
