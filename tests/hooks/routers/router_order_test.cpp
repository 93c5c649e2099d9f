// Slots, tokens and experts in another order. The transfer functions in hooks/routers/router_order.cpp.
#include <string>
#include <vector>

#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

using Values = std::vector<torch::jit::Value*>;

const std::string kPick = "    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)\n";

class RouterOrder : public FollowedProjection {
 protected:
  void follow_slots(const std::string& made) {
    follow(kPick + "    made = " + made + "\n    return made, weights, ids\n");
  }
};

TEST_F(RouterOrder, SlotsInAnotherOrderAreTheSlots) {
  for (const std::string made :
       {"ids.flip(-1)", "torch.roll(ids, 1, 1)", "ids[:, [1, 0]]", "torch.index_select(ids, 1, torch.tensor([1, 0]))",
        "torch.stack([ids[:, 1], ids[:, 0]], -1)"}) {
    follow_slots(made);
    EXPECT_TRUE(fact("made").aligned) << made;
    EXPECT_EQ(fact("made").ids, Values{value("made")}) << made;
    EXPECT_FALSE(fact("made").rewritten) << made;
  }
  follow(kPick + "    made, order = torch.sort(ids, -1)\n    return made, order, weights\n");
  EXPECT_EQ(fact("made").ids, Values{value("made")});
  follow_slots("weights.flip(-1)");
  EXPECT_TRUE(fact("made").aligned);
  EXPECT_EQ(fact("made").role, Role::kSlot);
}

TEST_F(RouterOrder, TokensInAnotherOrderAreNotFollowed) {
  for (const std::string made : {"ids.flip(0)", "torch.roll(weights, 1, 0)", "ids.flip([0, 1])"}) {
    follow_slots(made);
    EXPECT_FALSE(fact("made").aligned) << made;
    EXPECT_TRUE(fact("made").rewritten) << made;
  }
}

TEST_F(RouterOrder, ExpertsInAnotherOrderAreNotFollowed) {
  for (const std::string made : {"torch.zeros_like(logits).scatter(-1, ids, weights).flip(-1)",
                                 "torch.zeros_like(logits).scatter(-1, ids, weights)[:, [1, 0, 2, 3, 5, 4]]",
                                 "torch.one_hot(ids, 6).roll(1, -1)"}) {
    follow_slots(made);
    EXPECT_TRUE(fact("made").rewritten) << made;
  }
  follow_slots("torch.zeros_like(logits).scatter(-1, ids, weights)[:, [0, 1, 2, 3, 4, 5]]");
  EXPECT_FALSE(fact("made").rewritten) << "as they were";
}

}  // namespace
}  // namespace moetap::hooks::testing
