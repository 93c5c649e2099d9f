#include "hooks/routers/router_decision.h"

#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class Decision : public FollowedProjection {
 protected:
  RouterDecision decision(const std::string& code) {
    follow(code);
    return decide(*graph_, *flow_);
  }
};

TEST_F(Decision, TakesWhatTheExpertsGet) {
  const RouterDecision found = decision(R"(
    scores = torch.sigmoid(logits)
    best, ids = torch.topk(scores + self.expert_scale, 2, -1)
    picked = torch.gather(scores, -1, ids)
    weights = picked / picked.sum(-1, keepdim=True)
)" + kRunExperts);
  ASSERT_TRUE(found.router.has_value());
  EXPECT_FALSE(found.skipped.has_value());
  EXPECT_EQ(found.router->projection.node, value("logits")->node());
  EXPECT_EQ(found.router->anchor(), value("logits")->node());
  EXPECT_EQ(found.router->logits, value("logits"));
  EXPECT_EQ(found.router->scores, value("scores"));
  EXPECT_EQ(found.router->selected, std::vector<jit::Value*>{value("ids")});
  EXPECT_EQ(found.router->weights, std::vector<jit::Value*>{value("weights")});
  EXPECT_EQ(found.router->form, "slots");
  EXPECT_EQ(found.router->scoring, "sigmoid_bias");
  EXPECT_EQ(found.router->num_experts, kExperts);
  EXPECT_EQ(found.router->top_k, 2);
  EXPECT_EQ(found.router->picks, std::vector<jit::Node*>{node_of_kind(*graph_, "aten::topk")});
}

TEST_F(Decision, NamesTheScoringOfTheScoresWhateverIsPickedFrom) {
  for (const bool biased : {false, true}) {
    const RouterDecision found = decision(R"(
    scores = torch.sigmoid(logits)
    picked_from = torch.softmax(logits, -1))" +
                                          std::string(biased ? " + self.expert_scale" : "") + R"(
    best, ids = torch.topk(picked_from, 2, -1)
    weights = torch.gather(scores, -1, ids)
)" + kRunExperts);
    ASSERT_TRUE(found.router.has_value());
    EXPECT_EQ(found.router->scores, value("scores"));
    EXPECT_EQ(found.router->scoring, biased ? "sigmoid_bias" : "sigmoid");
  }
}

// One slot is broadcast over two.
TEST_F(Decision, KnowsNoNumberOfSlotsThatAreChosenFromSeveral) {
  for (const char* chosen :
       {"torch.where(weights < 0.4, picked[:, :1], picked)", "torch.where(weights < 0.4, picked, picked[:, :1])"}) {
    const RouterDecision found = decision(
        "    weights, picked = torch.topk(torch.softmax(logits, -1), 2, -1)\n    ids = " + std::string(chosen) + "\n" +
        kRunExperts);
    ASSERT_TRUE(found.router.has_value());
    EXPECT_EQ(found.router->top_k, std::nullopt);
  }
}

TEST_F(Decision, TellsTheForms) {
  const RouterDecision dense = decision(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    gates = torch.zeros_like(logits).scatter(-1, ids, weights)
    every = torch.einsum("td,edf->tef", [x, self.expert_weights])
    return (every * gates.unsqueeze(-1)).sum(1)
)");
  ASSERT_TRUE(dense.router.has_value());
  EXPECT_EQ(dense.router->form, "dense");
  EXPECT_EQ(dense.router->weights, std::vector<jit::Value*>{value("gates")});
  const RouterDecision choice = decision(R"(
    scores = torch.softmax(logits, -1).t()
    values, tokens = torch.topk(scores, 4, -1)
    rows = x[tokens[0]]
    return torch.matmul(rows, self.expert_weights[0]) * values[0].unsqueeze(-1)
)");
  ASSERT_TRUE(choice.router.has_value());
  EXPECT_EQ(choice.router->form, "expert_choice");
  EXPECT_EQ(choice.router->top_k, std::nullopt);
}

// Flat weights that are sorted by expert and changed are put back by the order.
TEST_F(Decision, KnowsTheOrderOfChangedWeights) {
  const RouterDecision found = decision(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    order = torch.argsort(ids.reshape(-1))
    rows = torch.div(order, 2, rounding_mode="floor")
    sorted_ids = ids.reshape(-1)[order]
    outputs = torch.bmm(x[rows].unsqueeze(1), self.expert_weights[sorted_ids]).squeeze(1)
    doubled = weights.reshape(-1)[order] * 2.0
    changed = doubled + weights.reshape(-1)[order]
    return outputs * changed.unsqueeze(-1)
)");
  ASSERT_TRUE(found.router.has_value());
  EXPECT_EQ(found.router->weights, std::vector<jit::Value*>{value("changed")});
  EXPECT_EQ(found.router->weights_order, value("order"));
}

struct SkippedCase {
  const char* name;
  SkipReason reason;
  std::string code;
};

void PrintTo(const SkippedCase& skipped, std::ostream* stream) {
  *stream << skipped.name;
}

class Skipped : public Decision, public ::testing::WithParamInterface<SkippedCase> {};

TEST_P(Skipped, IsNoRouter) {
  const RouterDecision found = decision(GetParam().code);
  EXPECT_FALSE(found.router.has_value());
  ASSERT_TRUE(found.skipped.has_value());
  EXPECT_STREQ(to_string(found.skipped->reason), to_string(GetParam().reason));
  EXPECT_EQ(found.skipped->source, value("logits")->node());
}

INSTANTIATE_TEST_SUITE_P(RouterDecision, Skipped,
                         ::testing::Values(SkippedCase{"DenseMixture", SkipReason::kWeighsEverything, R"(
    shares = torch.softmax(logits, -1)
    every = torch.einsum("td,edf->tef", [x, self.expert_weights])
    return (every * shares.unsqueeze(-1)).sum(1)
)"},
                                           SkippedCase{"TokensOfEachExpert", SkipReason::kPicksTokens, R"(
    values, tokens = torch.topk(torch.softmax(logits, -1).t(), 4, -1)
    return values, tokens
)"},
                                           SkippedCase{"Tokens", SkipReason::kIndexesTokens, R"(
    ids = torch.topk(logits.amax(-1), 2, 0)[1]
    return x[ids]
)"},
                                           SkippedCase{"Sampling", SkipReason::kSamples, R"(
    shares = torch.softmax(torch.topk(logits, 3, -1)[0], -1)
    return torch.multinomial(shares, 1)
)"},
                                           SkippedCase{"LookUp", SkipReason::kLooksUpValues, R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return (self.expert_scale[ids] * weights).sum(1)
)"},
                                           SkippedCase{"Classifier", SkipReason::kSelectsNoExpert, R"(
    confidence, label = torch.max(torch.softmax(logits, -1), -1)
    return confidence, label
)"},
                                           SkippedCase{"ProductKeys", SkipReason::kPicksFromPicked, R"(
    values, places = torch.topk(logits, 3, -1)
    best, at = torch.topk(values, 2, -1)
    ids = torch.gather(places, -1, at)
    weights = torch.softmax(best, -1)
)" + kRunExperts},
                                           SkippedCase{"Groups", SkipReason::kPicksInGroups, R"(
    grouped = torch.softmax(logits, -1).view(-1, 2, 3)
    weights, ids = torch.topk(grouped, 1, -1)
)" + kRunExperts},
                                           SkippedCase{"ChangedAfterSorting", SkipReason::kChangesSortedWeights, R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    order = torch.argsort(ids.reshape(-1))
    rows = torch.div(order, 2, rounding_mode="floor")
    sorted_ids = ids.reshape(-1)[order]
    outputs = torch.bmm(x[rows[1:]].unsqueeze(1), self.expert_weights[sorted_ids[1:]]).squeeze(1)
    changed = weights.reshape(-1)[order][1:] * 2.0
    return outputs * changed.unsqueeze(-1)
)"},
                                           SkippedCase{"FactorOrHiddenState", SkipReason::kUnsureFactor, R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 1, -1)
    weights = weights * torch.sigmoid(input[:, :1])
    chosen = self.expert_weights[ids.reshape(-1)]
    return torch.bmm(x.unsqueeze(1), chosen).squeeze(1) * weights
)"},
                                           SkippedCase{"TwoRouters", SkipReason::kSharesProjection, R"(
    first, second = torch.chunk(logits, 2, -1)
    weights, ids = torch.topk(torch.softmax(first, -1), 1, -1)
    one = torch.bmm(x.unsqueeze(1), self.expert_weights[ids.view(-1)]).squeeze(1) * weights
    weights2, ids2 = torch.topk(torch.softmax(second, -1), 1, -1)
    two = torch.bmm(x.unsqueeze(1), self.expert_weights[ids2.view(-1)]).squeeze(1) * weights2
    return one + two
)"}),
                         [](const auto& info) { return std::string(info.param.name); });

// A projection that nothing is picked from is no router, and no near miss of one.
TEST_F(Decision, IsSilentOfOtherProjections) {
  const RouterDecision found = decision("    return torch.relu(logits)\n");
  EXPECT_FALSE(found.router.has_value());
  EXPECT_FALSE(found.skipped.has_value());
}

}  // namespace
}  // namespace moetap::hooks::testing
