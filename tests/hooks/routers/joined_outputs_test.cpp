#include "hooks/routers/joined_outputs.h"

#include <string>
#include <vector>

#include "hooks/routers/router_decision.h"
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

// `one` is the output of a slot, `a` and `b` those of both, whose order A and B tell.
const std::string kPick = R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    a = torch.bmm(x.unsqueeze(1), self.expert_weights[ids[:, A]]).squeeze(1)
    b = torch.bmm(x.unsqueeze(1), self.expert_weights[ids[:, B]]).squeeze(1)
)";

std::string in_order(std::string code, const std::string& first, const std::string& second) {
  for (size_t at = 0; (at = code.find_first_of("AB", at)) != std::string::npos;) {
    const std::string& slot = code[at] == 'A' ? first : second;
    code.replace(at, 1, slot);
    at += slot.size();
  }
  return code;
}

class JoinedOutputs : public FollowedProjection {
 protected:
  /// "found", "crossed", or why it was refused else.
  std::string verdict(const std::string& code) {
    follow(code);
    const RouterDecision decision = decide(*graph_, *flow_);
    if (decision.router) return "found";
    if (!decision.skipped) return "nothing";
    return decision.skipped->reason == SkipReason::kRewritesIds ? "crossed" : to_string(decision.skipped->reason);
  }
};

const std::vector<std::string> kJoins = {
    "    return (torch.stack([a, b], 1) * weights.unsqueeze(-1)).sum(1)\n",
    "    return (torch.stack([a, b]) * weights.t().unsqueeze(-1)).sum(0)\n",
    "    return torch.matmul(weights.unsqueeze(1), torch.stack([a, b], 1)).squeeze(1)\n",
    "    return torch.einsum(\"tk,tkf->tf\", [weights, torch.stack([a, b], 1)])\n",
    "    return torch.einsum(\"tkf,tk->tf\", [torch.relu(torch.stack([a, b], 1)) + 1.0, weights])\n",
    "    joined = torch.cat([a.unsqueeze(1), b.unsqueeze(1)], 1)\n    return (joined * weights.unsqueeze(-1)).sum(1)\n",
    "    joined = torch.cat([a, b]).view(2, -1, 8)\n    return (joined * weights.t().unsqueeze(-1)).sum(0)\n",
    "    return (torch.cat([a, b]) * weights.t().reshape(-1, 1)).view(2, -1, 8).sum(0)\n",
    R"(
    outs = torch.zeros_like(x).unsqueeze(1).repeat([1, 2, 1])
    outs[:, 0] = a
    outs[:, 1] = b
    return (outs * weights.unsqueeze(-1)).sum(1)
)",
    R"(
    outs = torch.zeros_like(x).unsqueeze(1).repeat([1, 2, 1])
    outs[:, 0:1] = a.unsqueeze(1)
    outs[:, 1:2] = b.unsqueeze(1)
    return torch.einsum("tk,tkf->tf", [weights, outs])
)",
    R"(
    outs = torch.zeros_like(x).unsqueeze(0).repeat([2, 1, 1])
    outs[0].copy_(a)
    outs[1].add_(b)
    return (outs * weights.t().unsqueeze(-1)).sum(0)
)"};

TEST_F(JoinedOutputs, InTheOrderOfTheSlotsAreFound) {
  for (const std::string& join : kJoins) EXPECT_EQ(verdict(in_order(kPick, "0", "1") + join), "found") << join;
}

TEST_F(JoinedOutputs, InAnotherOrderAreRefused) {
  for (const std::string& join : kJoins) EXPECT_EQ(verdict(in_order(kPick, "1", "0") + join), "crossed") << join;
}

TEST_F(JoinedOutputs, OfOneSlotTwiceAreRefused) {
  EXPECT_EQ(verdict(in_order(kPick, "0", "0") + kJoins[0]), "crossed");
}

TEST_F(JoinedOutputs, BesideASharedExpertAreFound) {
  const std::string code = R"(
    every = torch.cat([torch.ones_like(weights[:, :1]), weights], 1)
    outs = torch.stack([torch.matmul(x, self.expert_weights[0]), a, b], 1)
    return (outs * every.unsqueeze(-1)).sum(1)
)";
  EXPECT_EQ(verdict(in_order(kPick, "0", "1") + code), "found");
  EXPECT_EQ(verdict(in_order(kPick, "1", "0") + code), "crossed");
}

TEST_F(JoinedOutputs, InTurnsOfALoop) {
  const std::string pick = "    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)\n";
  const std::string listed = R"(
    outs: List[Tensor] = []
    for k in range(2):
        outs.append(torch.bmm(x.unsqueeze(1), self.expert_weights[ids[:, SLOT]]).squeeze(1))
    return (torch.stack(outs, 1) * weights.unsqueeze(-1)).sum(1)
)";
  const std::string written = R"(
    outs = torch.zeros_like(x).unsqueeze(1).repeat([1, 2, 1])
    for k in range(2):
        outs[:, k] = torch.bmm(x.unsqueeze(1), self.expert_weights[ids[:, SLOT]]).squeeze(1)
    return (outs * weights.unsqueeze(-1)).sum(1)
)";
  const auto at = [](std::string code, const std::string& slot) { return code.replace(code.find("SLOT"), 4, slot); };
  for (const std::string& code : {listed, written}) {
    EXPECT_EQ(verdict(pick + at(code, "k")), "found") << code;
    EXPECT_EQ(verdict(pick + at(code, "1 - k")), "crossed") << code;
  }
  std::string backwards = at(listed, "k");
  backwards.replace(backwards.find("range(2)"), 8, "range(1, -1, -1)");
  EXPECT_EQ(verdict(pick + backwards), "crossed");
}

// The outputs of all slots, of which one meets the weight of one slot.
TEST_F(JoinedOutputs, ThatAreTakenApart) {
  const std::string pick = R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    outs = torch.einsum("td,tkdf->tkf", [x, self.expert_weights[ids]])
)";
  const std::vector<std::string> uses = {
      "    return outs[:, A] * weights[:, 0].unsqueeze(-1) + outs[:, B] * weights[:, 1].unsqueeze(-1)\n",
      "    return outs.select(1, A) * weights[:, 0:1] + outs.select(-2, B) * weights[:, 1:2]\n",
      "    both = outs.unbind(1)\n    first, second = torch.unbind(weights, 1)\n"
      "    return both[A] * first.unsqueeze(-1) + both[B] * second.unsqueeze(-1)\n"};
  for (const std::string& use : uses) {
    EXPECT_EQ(verdict(pick + in_order(use, "0", "1")), "found") << use;
    EXPECT_EQ(verdict(pick + in_order(use, "1", "0")), "crossed") << use;
  }
}

}  // namespace
}  // namespace moetap::hooks::testing
