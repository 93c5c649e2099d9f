// The transfer functions in hooks/routers/router_structure.cpp.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

class RouterStructure : public FollowedProjection {};

TEST_F(RouterStructure, PassesBranchesAndTuples) {
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

TEST_F(RouterStructure, CarriesValuesAroundLoops) {
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

TEST_F(RouterStructure, TakesWhatStandsInLists) {
  follow(R"(
    weights, ids = torch.topk(logits, 2, -1)
    listed = [ids, weights]
    again = listed[0]
    columns = torch.unbind(ids, 1)
    second = columns[1]
    return again, second
)");
  EXPECT_EQ(fact("again").role, Role::kIds);
  EXPECT_TRUE(fact("again").aligned);
  EXPECT_EQ(fact("second").place, 1);
}

TEST_F(RouterStructure, GivesThePlaceOfATurn) {
  follow(R"(
    weights, ids = torch.topk(logits, 2, -1)
    columns = torch.unbind(ids, 1)
    out = torch.zeros_like(x)
    for k in range(2):
        column = columns[k]
        out = out + self.expert_weights[column].sum(1)
    return out
)");
  EXPECT_EQ(fact("column").place, -1);
  EXPECT_NE(fact("column").place_in_run, nullptr);
}

TEST_F(RouterStructure, JoinsTheArmsOfABranch) {
  follow(R"(
    if int(input.size(0)) > 3:
        weights, ids = torch.topk(logits, 2, -1)
    else:
        weights, ids = torch.topk(torch.sigmoid(logits), 3, -1)
    out = self.expert_weights[ids]
    return out, weights
)");
  EXPECT_EQ(flow_->picks().size(), 2u);
  EXPECT_EQ(fact("out").picks.size(), 2u);
  EXPECT_TRUE(fact("out").unsure_slots) << "two or three";
}

}  // namespace
}  // namespace moetap::hooks::testing
