// Places that are computed with the ids of slots without an expert. The transfer functions in
// hooks/routers/unused_slots.cpp.
#include "hooks/routers/unused_slots.h"

#include <string>
#include <vector>

#include "hooks/routers/router_decision.h"
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

// `ids` hold -1 where the capacity of 4 leaves a slot out; `index` is a place among those of all experts.
const std::string kDrop = R"(
    weights, picked = torch.topk(torch.softmax(logits, -1), 2, -1)
    hot = torch.one_hot(picked, 6).view(-1, 6)
    place = ((torch.cumsum(hot, 0) - 1) * hot).sum(-1).view_as(picked)
    keep = place < 4
    ids = torch.where(keep, picked, torch.full_like(picked, -1))
    index = ids * 4 + place
)";

const std::string kReadRows = R"(
    outputs = torch.bmm(x[:4].unsqueeze(0).expand(6, 4, 8), self.expert_weights).view(-1, 8)
    return (outputs[made] * weights.unsqueeze(-1)).sum(1)
)";

class UnusedSlots : public FollowedProjection {
 protected:
  void follow_index(const std::string& code) { follow(kDrop + code + "    return made, weights\n"); }

  bool is_refused(const std::string& code) {
    follow(kDrop + code + kReadRows);
    const RouterDecision decision = decide(*graph_, *flow_);
    if (decision.skipped) {
      EXPECT_EQ(decision.skipped->reason, SkipReason::kRewritesIds) << code;
    }
    return !decision.router.has_value();
  }
};

TEST_F(UnusedSlots, HaveNumbersThatMayBeAnExperts) {
  follow_index("    made = index\n");
  EXPECT_TRUE(fact("index").strays);
  EXPECT_FALSE(fact("index").rewritten);
  EXPECT_EQ(fact("index").ids, std::vector{value("ids")});
  follow_index("    made = torch.where(keep, picked, torch.full_like(picked, 6)) * 4 + place\n");
  EXPECT_FALSE(fact("made").strays);  // behind the rows of all experts
  follow_index("    made = (ids + 1) * 4 + place\n");
  EXPECT_FALSE(fact("made").strays);  // before them
  follow_index("    made = picked * 4 + place\n");
  EXPECT_FALSE(fact("made").strays);  // there are none
}

TEST_F(UnusedSlots, AreTakenOutByWhatTellsWhichTheyAre) {
  for (const std::string made : {
           "torch.where(ids >= 0, index, torch.full_like(index, 24))",
           "torch.where(ids < 0, torch.full_like(index, 24), index)",
           "torch.where((ids == -1).logical_not(), index, torch.full_like(index, 24))",
           "index.masked_fill(ids == -1, 24)",
           "index.masked_fill(~keep, 24)",
           "torch.where(keep, index, torch.full_like(index, 24))",
           "(index + 1) * (ids > -1).long()",
           "(index + 1) * keep",
           "index[ids >= 0]",
           "index[keep]",
           "index.masked_fill(index < 0, 24)",
       }) {
    follow_index("    made = " + made + "\n");
    EXPECT_FALSE(fact("made").strays) << made;
    EXPECT_FALSE(fact("made").rewritten) << made;
    EXPECT_EQ(fact("made").ids.front(), value("ids")) << made;
  }
}

TEST_F(UnusedSlots, StrayWhereOtherSlotsAreTakenOutOrARowOfAnExpertIsPutThere) {
  for (const std::string made : {
           "torch.where(ids >= 0, index, torch.zeros_like(index))",
           "index * (ids >= 0)",
           "torch.clamp(index, min=0)",
           "index.masked_fill(ids == -1, 23)",
       }) {
    follow_index("    made = " + made + "\n");
    EXPECT_TRUE(fact("made").strays) << made;
    EXPECT_FALSE(fact("made").rewritten) << made;
  }
  for (const std::string made : {
           "torch.where(ids >= 3, index, torch.full_like(index, 24))",
           "index.masked_fill(weights > 0.1, 24)",
           "index.masked_fill(keep, 24)",
           "torch.clamp(index, max=7)",
       }) {
    follow_index("    made = " + made + "\n");
    EXPECT_TRUE(fact("made").rewritten || fact("made").strays) << made;
  }
}

TEST_F(UnusedSlots, MayStrayWhereTheirWeightsAreZero) {
  const std::string clamped = "    made = torch.clamp(index, min=0)\n";
  EXPECT_TRUE(is_refused(clamped));
  for (const std::string zero : {"weights * (ids >= 0)", "torch.where(keep, weights, torch.zeros_like(weights))",
                                 "weights.masked_fill(ids < 0, 0.0)", "weights * keep"}) {
    EXPECT_FALSE(is_refused(clamped + "    weights = " + zero + "\n")) << zero;
  }
  EXPECT_TRUE(is_refused(clamped + "    weights = weights * (ids >= 1)\n"));
  EXPECT_FALSE(
      is_refused("    made = torch.where(ids >= 0, index, torch.full_like(index, -1)).clamp(min=0)\n"
                 "    weights = weights * (ids >= 0)\n"));
}

TEST_F(UnusedSlots, AreToldBehindIdsThatWerePutTogether) {
  follow(R"(
    scores = torch.softmax(logits, -1)
    best, first = torch.max(scores, -1)
    mask = torch.one_hot(first, 6)
    second = torch.argmax(logits.masked_fill(mask > 0, -1e9), -1)
    one = torch.where(best > 0.3, first, torch.full_like(first, -1))
    ids = torch.stack([second, one]).int()
    index = ids.long() * 4
    made = torch.where(ids >= 0, index, torch.full_like(index, 24))
    return made
)");
  EXPECT_TRUE(fact("index").strays);
  EXPECT_FALSE(fact("made").strays);
  EXPECT_FALSE(fact("made").rewritten);
}

}  // namespace
}  // namespace moetap::hooks::testing
