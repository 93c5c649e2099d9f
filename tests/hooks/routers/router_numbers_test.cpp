// What arithmetic makes of ids. The transfer functions in hooks/routers/router_numbers.cpp.
#include <string>
#include <vector>

#include "hooks/routers/router_decision.h"
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

using Values = std::vector<torch::jit::Value*>;

const std::string kPick = "    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)\n";

class RouterNumbers : public FollowedProjection {
 protected:
  void follow_ids(const std::string& code) { follow(kPick + code + "    return made, weights\n"); }
};

TEST_F(RouterNumbers, OtherIdsOfTheExpertsAreIds) {
  for (const std::string made : {"(ids + 1) % 6", "5 - ids", "torch.bitwise_xor(ids, 1)", "torch.clamp(ids, max=3)"}) {
    follow_ids("    made = " + made + "\n");
    EXPECT_TRUE(fact("made").aligned) << made;
    EXPECT_EQ(fact("made").ids, Values{value("made")}) << made;
    EXPECT_FALSE(fact("made").rewritten) << made;
  }
}

TEST_F(RouterNumbers, AnIndexOfTheSameExpertsKeepsTheIds) {
  follow_ids("    made = ids * 4 + 1\n");
  EXPECT_FALSE(fact("made").aligned);
  EXPECT_TRUE(fact("made").index);
  EXPECT_TRUE(fact("made").strided);
  EXPECT_FALSE(fact("made").rewritten);
  EXPECT_EQ(fact("made").ids, Values{value("ids")});
}

TEST_F(RouterNumbers, APartOfAnIdIsNone) {
  follow_ids("    made = torch.div(ids, 2, rounding_mode=\"floor\")\n");
  EXPECT_TRUE(fact("made").nested);
  EXPECT_FALSE(fact("made").aligned);
}

TEST_F(RouterNumbers, WhatTheGraphDoesNotTellIsRewritten) {
  follow_ids("    made = (ids + (x[:, :1] > 0).long()).fmod(5)\n");
  EXPECT_TRUE(fact("made").unknown_numbers);
  EXPECT_FALSE(fact("made").aligned);
}

TEST_F(RouterNumbers, AnIndexAmongTheExpertsIsAnId) {
  const std::string apply = R"(
    chosen = self.expert_weights[made]
    return (torch.einsum("td,tkdf->tkf", [x, chosen]) * weights.unsqueeze(-1)).sum(1)
)";
  follow(kPick + "    made = ids.view(-1, 2) + (x.view(-1, 8)[:, :1] > 0).long()\n" + apply);
  const RouterDecision decision = decide(*graph_, *flow_);
  ASSERT_TRUE(decision.router.has_value());
  EXPECT_EQ(decision.router->selected, Values{value("made")});
}

}  // namespace
}  // namespace moetap::hooks::testing
