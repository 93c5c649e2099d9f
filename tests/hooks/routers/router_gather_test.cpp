// The transfer functions in hooks/routers/router_gather.cpp.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class RouterGather : public FollowedProjection {};

TEST_F(RouterGather, SeesDispatchedRows) {
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

TEST_F(RouterGather, SeesTokensChosenFromBeforeTheProjection) {
  follow(R"(
    ids = torch.topk(logits.amax(-1), 2, 0)[1]
    return x[ids]
)");
  EXPECT_EQ(count(EventKind::kChoosesTokens), 1);
  EXPECT_EQ(count(EventKind::kDispatches), 0);
}

TEST_F(RouterGather, LosesTheOrderOfTokensInSortedWeights) {
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

TEST_F(RouterGather, SpreadsWeightsOverTheExperts) {
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

TEST_F(RouterGather, TakesScoresAtTheIdsAsWeights) {
  follow(R"(
    scores = torch.sigmoid(logits)
    values, ids = torch.topk(scores + self.expert_scale, 2, -1)
    weights = torch.gather(scores, -1, ids)
    places = torch.arange(6)[ids]
    return weights, places
)");
  EXPECT_EQ(fact("weights").role, Role::kSlot);
  EXPECT_TRUE(fact("weights").aligned);
  EXPECT_EQ(fact("weights").score, value("scores"));
  EXPECT_EQ(fact("weights").ids, std::vector<jit::Value*>{value("ids")});
}

// Ids are reported from before the table, and weights by the slots of these.
TEST_F(RouterGather, FollowsPlacesThatATableGives) {
  for (const std::string look_up :
       {"self.places[ids]", "torch.index_select(self.places, 0, ids.view(-1)).view_as(ids)",
        "torch.gather(self.places, 0, ids.reshape(-1)).view_as(ids)", "torch.take(self.places, ids)",
        "torch.embedding(self.places.unsqueeze(-1), ids).squeeze(-1)", "torch.clamp(self.places[ids], min=0)"}) {
    follow("    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)\n    places = " + look_up + R"(
    chosen = self.expert_weights[places]
    spread = torch.zeros_like(logits).scatter(-1, places, weights)
    hot = torch.one_hot(places, 6).to(float32) * weights.unsqueeze(-1)
    third = places == 3
    return chosen, spread, hot, third
)");
    EXPECT_EQ(fact("chosen").role, Role::kChosen) << look_up;
    for (const std::string name : {"chosen", "spread", "hot", "third"}) {
      EXPECT_EQ(fact(name).ids, std::vector<jit::Value*>{value("ids")}) << look_up << " " << name;
    }
    for (const std::string name : {"spread", "hot"}) {
      EXPECT_EQ(fact(name).role, Role::kSlot) << look_up << ": no weights over the experts";
      EXPECT_EQ(fact(name).weights, std::vector<jit::Value*>{value("weights")}) << look_up;
    }
    EXPECT_TRUE(fact("third").per_expert);
    EXPECT_FALSE(fact("chosen").rewritten);
  }
}

TEST_F(RouterGather, TakesWeightsFromAnotherProjection) {
  follow(R"(
    values, ids = torch.topk(logits, 2, -1)
    other = torch.sigmoid(torch.linear(x, self.gate))
    weights = torch.gather(other, -1, ids)
    return weights
)");
  EXPECT_EQ(fact("weights").role, Role::kSlot);
  EXPECT_EQ(fact("weights").slot_scoring, "other");
  EXPECT_EQ(fact("weights").ids, std::vector<jit::Value*>{value("ids")});
}

// What is picked among candidates is a place among these, for the scores of the candidates; and of the candidates it
// takes some, which ones the first scores do not tell.
TEST_F(RouterGather, DoesNotTakePlacesAmongCandidatesForIds) {
  follow(R"(
    candidates = torch.topk(torch.linear(x, self.gate * 2.0), 4, -1)[1]
    weights, place = torch.topk(torch.gather(logits, -1, candidates), 2, -1)
    return weights, place
)");
  EXPECT_TRUE(fact("place").grouped);
  follow(R"(
    values, candidates = torch.topk(logits, 4, -1)
    place = torch.topk(torch.linear(x, self.gate[:4]), 2, -1)[1]
    ids = torch.gather(candidates, -1, place)
    return ids
)");
  EXPECT_TRUE(fact("ids").rewritten);
}

TEST_F(RouterGather, TellsTheProjectionsOwnRowsFromExperts) {
  follow(R"(
    values, ids = torch.topk(logits, 2, -1)
    rows = self.gate[ids]
    chosen = self.expert_weights[ids]
    return rows, chosen
)");
  EXPECT_TRUE(fact("rows").own);
  EXPECT_FALSE(fact("chosen").own);
  EXPECT_EQ(fact("chosen").role, Role::kChosen);
}

}  // namespace
}  // namespace moetap::hooks::testing
