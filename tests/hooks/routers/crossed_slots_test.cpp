#include "hooks/routers/crossed_slots.h"

#include <string>
#include <vector>

#include "hooks/routers/router_decision.h"
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

const std::string kPick = "    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)\n";

/// `code` with the numbers of the slots of ids and weights in the place of I and W.
std::string with_slots(std::string code, const std::string& ids, const std::string& weights) {
  for (size_t at = 0; (at = code.find_first_of("IW", at)) != std::string::npos;) {
    const std::string& slot = code[at] == 'I' ? ids : weights;
    code.replace(at, 1, slot);
    at += slot.size();
  }
  return code;
}

class CrossedSlots : public FollowedProjection {
 protected:
  /// "found", "crossed", or why it was refused else.
  std::string verdict(const std::string& code) {
    follow(kPick + code);
    const RouterDecision decision = decide(*graph_, *flow_);
    if (decision.router) return "found";
    if (!decision.skipped) return "nothing";
    return decision.skipped->reason == SkipReason::kRewritesIds ? "crossed" : to_string(decision.skipped->reason);
  }

  /// Of a use of one slot, once for each slot of the ids.
  std::string of_both(const std::string& use, bool crossed) {
    return verdict("    out = torch.zeros_like(x)\n" + with_slots(use, "0", crossed ? "1" : "0") +
                   with_slots(use, "1", crossed ? "0" : "1") + "    return out\n");
  }
};

const std::vector<std::string> kUses = {
    // By a mask of one expert.
    R"(
    for e in range(6):
        mask = (ids[:, I] == e).to(x.dtype)
        out = out + torch.matmul(x, self.expert_weights[e]) * (mask * weights[:, W]).unsqueeze(-1)
)",
    R"(
    for e in range(6):
        part = torch.where(ids[:, I] == e, weights[:, W], torch.zeros_like(weights[:, W]))
        out = out + torch.matmul(x, self.expert_weights[e]) * part.unsqueeze(-1)
)",
    R"(
    for e in range(6):
        mask = (ids[:, I] == e).to(x.dtype).unsqueeze(-1)
        out = out + (torch.matmul(x, self.expert_weights[e]) * mask) * weights[:, W].unsqueeze(-1)
)",
    // By rows.
    R"(
    for e in range(6):
        rows = torch.nonzero(ids[:, I] == e).squeeze(-1)
        out.index_add_(0, rows, torch.matmul(x[rows], self.expert_weights[e]) * weights[:, W][rows].unsqueeze(-1))
)",
    R"(
    for e in range(6):
        rows = torch.nonzero(torch.unbind(ids, 1)[I] == e).squeeze(-1)
        part = torch.unbind(weights, 1)[W][rows]
        out.index_add_(0, rows, torch.matmul(x[rows], self.expert_weights[e]) * part.unsqueeze(-1))
)",
    // By parameters.
    R"(
    chosen = self.expert_weights[ids[:, I]]
    out = out + torch.bmm(x.unsqueeze(1), chosen).squeeze(1) * weights[:, W].unsqueeze(-1)
)",
    R"(
    chosen = torch.index_select(self.expert_weights, 0, ids.select(1, I))
    out = out + torch.relu(torch.bmm(x.unsqueeze(1), chosen)).squeeze(1) * weights.select(-1, W).unsqueeze(-1)
)"};

TEST_F(CrossedSlots, AreRefused) {
  for (const std::string& use : kUses) EXPECT_EQ(of_both(use, /*crossed=*/true), "crossed") << use;
}

TEST_F(CrossedSlots, StraightOnesAreFound) {
  for (const std::string& use : kUses) EXPECT_EQ(of_both(use, /*crossed=*/false), "found") << use;
}

TEST_F(CrossedSlots, InLoops) {
  const std::string loop = "    out = torch.zeros_like(x)\n    for k in range(2):\n";
  const std::string by_parameters = R"(
        chosen = self.expert_weights[ids[:, k]]
        out = out + torch.bmm(x.unsqueeze(1), chosen).squeeze(1) * weights[:, W].unsqueeze(-1)
)";
  const std::string by_masks = R"(
        for e in range(6):
            mask = (ids[:, k] == e).to(x.dtype) * weights[:, W]
            out = out + torch.matmul(x, self.expert_weights[e]) * mask.unsqueeze(-1)
)";
  for (const std::string& use : {by_parameters, by_masks}) {
    EXPECT_EQ(verdict(loop + with_slots(use, "", "k") + "    return out\n"), "found");
    EXPECT_EQ(verdict(loop + with_slots(use, "", "1 - k") + "    return out\n"), "crossed");
    EXPECT_EQ(verdict(loop + with_slots(use, "", "0") + "    return out\n"), "crossed");
  }
}

// The weights of both slots stand in one tensor over the experts: nothing is put beside anything.
TEST_F(CrossedSlots, ThatAreSpreadOverTheExpertsAreReadThere) {
  const std::string code = R"(
    first = torch.one_hot(ids[:, 0], 6).to(x.dtype) * weights[:, 1].unsqueeze(-1)
    second = torch.one_hot(ids[:, 1], 6).to(x.dtype) * weights[:, 0].unsqueeze(-1)
    gates = first + second
    every = torch.einsum("td,edf->tef", [x, self.expert_weights])
    return (every * gates.unsqueeze(-1)).sum(1)
)";
  EXPECT_EQ(verdict(code), "found");
}

TEST_F(CrossedSlots, OfScoresThatWereCutAreNone) {
  const std::string code = R"(
    out = torch.zeros_like(x)
    for e in range(6):
        rows, slots = torch.where(ids == e)
        part = weights[rows, slots].unsqueeze(-1)
        out.index_add_(0, rows, torch.matmul(x[rows], self.expert_weights[e]) * part)
    return out
)";
  follow(
      "    noise, scores = torch.split(torch.cat([logits * 2.0, logits], -1), 6, -1)\n"
      "    weights, ids = torch.topk(torch.softmax(scores, -1), 2, -1)\n" +
      code);
  EXPECT_TRUE(decide(*graph_, *flow_).router.has_value());
}

}  // namespace
}  // namespace moetap::hooks::testing
