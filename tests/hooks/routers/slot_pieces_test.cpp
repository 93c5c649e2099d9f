#include "hooks/routers/slot_pieces.h"

#include <string>

#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

class SlotPieces : public FollowedProjection {
 protected:
  bool in_order(const std::string& code, const char* kind = "aten::cat") {
    follow("    weights, ids = torch.topk(logits, 3, -1)\n" + code + "    return made, weights\n");
    return joins_pieces_in_order(*node_of_kind(*graph_, kind));
  }
};

TEST_F(SlotPieces, ThatAreJoinedAsTheyWere) {
  EXPECT_TRUE(in_order("    made = torch.cat([ids[:, :1], ids[:, 1:]], 1)\n"));
  EXPECT_TRUE(in_order("    made = torch.stack([ids[:, 0], ids[:, 1], ids[:, 2]], 1)\n", "aten::stack"));
  EXPECT_TRUE(in_order("    a, b, c = torch.unbind(ids, 1)\n    made = torch.stack([a, b, c], 1)\n", "aten::stack"));
  EXPECT_TRUE(in_order("    made = torch.cat([ids[:, 0].unsqueeze(1).to(4), ids[:, 1:]], 1)\n"));
}

TEST_F(SlotPieces, ThatAreJoinedInAnotherOrder) {
  EXPECT_FALSE(in_order("    made = torch.cat([ids[:, 1:], ids[:, :1]], 1)\n"));
  EXPECT_FALSE(in_order("    made = torch.stack([ids[:, 2], ids[:, 1], ids[:, 0]], 1)\n", "aten::stack"));
  EXPECT_FALSE(in_order("    a, b, c = torch.unbind(ids, 1)\n    made = torch.stack([b, a, c], 1)\n", "aten::stack"));
}

// Nothing speaks against pieces of which the graph does not tell where they lie.
TEST_F(SlotPieces, ThatLieSomewhere) {
  EXPECT_TRUE(in_order("    made = torch.cat([torch.relu(weights), ids[:, :1].to(6)], 1)\n"));
}

}  // namespace
}  // namespace moetap::hooks::testing
