// The transfer functions in hooks/routers/router_masks.cpp.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class RouterMasks : public FollowedProjection {};

// A comparison with one number is one expert's mask, one with all numbers is every expert's.
TEST_F(RouterMasks, TellsOneExpertsMaskFromAll) {
  follow(R"(
    values, ids = torch.topk(logits, 2, -1)
    one = ids == 3
    all = ids.unsqueeze(-1) == torch.tensor([0, 1, 2, 3, 4, 5])
    above = logits > 0.5
    return one, all, above
)");
  EXPECT_TRUE(fact("one").per_expert);
  EXPECT_FALSE(fact("one").one_hot);
  EXPECT_TRUE(fact("all").one_hot);
  EXPECT_FALSE(fact("all").per_expert);
  EXPECT_EQ(fact("above").role, Role::kMask);
  EXPECT_FALSE(fact("above").per_expert) << "scores are no ids";
}

TEST_F(RouterMasks, TellsThresholdsFromComparedIds) {
  follow(R"(
    scores = torch.softmax(logits, -1)
    values, ids = torch.topk(scores, 2, -1)
    chosen = scores >= values[:, -1:]
    kept = torch.where(chosen, scores, torch.zeros_like(scores))
    later = ids > 3
    return kept, later
)");
  EXPECT_TRUE(fact("chosen").threshold);
  EXPECT_TRUE(fact("chosen").ids.empty()) << "scores were compared, no ids";
  EXPECT_TRUE(fact("kept").threshold);
  EXPECT_TRUE(fact("later").ordinal) << "larger ids are no expert";
}

TEST_F(RouterMasks, MakesNewLogitsOfScoresThatAreFilled) {
  follow(R"(
    closed = logits.masked_fill(self.expert_scale > 0.0, -1e9)
    scores = torch.softmax(closed, -1)
    first = torch.argmax(scores, -1)
    rest = logits.masked_fill(torch.one_hot(first, 6).to(boolean), -1e9)
    return scores, rest
)");
  EXPECT_EQ(fact("scores").logits, value("closed"));
  EXPECT_TRUE(fact("rest").masked) << "by what was picked";
}

TEST_F(RouterMasks, JoinsWhatIsChosenAndWhatFits) {
  follow(R"(
    values, ids = torch.topk(logits, 2, -1)
    hot = torch.one_hot(ids, 6).sum(1)
    fits = torch.cumsum(hot, 0) <= 3
    kept = torch.logical_and(hot.to(boolean), fits)
    return kept
)");
  EXPECT_TRUE(fact("fits").dropped);
  EXPECT_TRUE(fact("kept").dropped);
  EXPECT_EQ(fact("kept").ids, std::vector<jit::Value*>{value("ids")});
}

}  // namespace
}  // namespace moetap::hooks::testing
