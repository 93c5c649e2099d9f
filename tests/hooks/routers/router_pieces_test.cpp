// Pieces of scores, ids and weights.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

class RouterPieces : public FollowedProjection {};

TEST_F(RouterPieces, CountsTheSlotsOfASlice) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 4, -1)
    first = ids[:, :2]
    rest = ids[:, 2:]
    return first, rest, weights
)");
  EXPECT_EQ(fact("first").num_slots, 2);
  EXPECT_TRUE(fact("first").aligned);
  EXPECT_FALSE(fact("rest").aligned) << "without the first slots";
}

// What is used of the slots is the selection, however it was taken out.
TEST_F(RouterPieces, AreTheSelectionWhereNoOthersAreUsed) {
  follow(R"(
    weights, ids = torch.topk(logits, 2, -1)
    one = ids[:, 0]
    first = weights[:, :1]
    second = weights[:, 1:2]
    return one, first + second
)");
  EXPECT_TRUE(fact("one").aligned);
  EXPECT_EQ(fact("one").num_slots, 1);
  EXPECT_FALSE(fact("first").aligned) << "a part of the slots, beside another one";
  EXPECT_FALSE(fact("second").aligned);
  EXPECT_EQ(fact("first").place, 0);
  EXPECT_EQ(fact("second").weights, std::vector<torch::jit::Value*>{value("weights")});
}

}  // namespace
}  // namespace moetap::hooks::testing
