#include "hooks/routers/scaled_scores.h"

#include "hooks/routers/router_decision.h"
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

const std::string kPick = R"(
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
)";

class PlainScores : public FollowedProjection {
 protected:
  // Of scores that `code` makes of `scores`.
  bool with(const std::string& code) {
    follow("    scores = torch.softmax(logits, -1)\n" + code + "    weights, ids = torch.topk(scores, 2, -1)\n" +
           kRunExperts);
    const RouterDecision decision = decide(*graph_, *flow_);
    if (!decision.router)
      throw std::invalid_argument(
          "no router was found: " + std::string(decision.skipped ? to_string(decision.skipped->reason) : "") + code);
    return scores_are_plain(*graph_, *decision.router);
  }
};

TEST_F(PlainScores, AreWhatTheScoringFunctionGave) {
  EXPECT_TRUE(with(""));
  EXPECT_TRUE(with("    scores = scores.half().float().contiguous()\n"));
  EXPECT_FALSE(with("    scores = scores * (self.expert_scale > 0).float()\n"));
  EXPECT_FALSE(with("    scores = torch.threshold(scores, 0.1, 0.0)\n"));
  EXPECT_FALSE(with("    scores[:, 3] = 0.0\n"));
  EXPECT_FALSE(with("    scores.mul_((self.expert_scale > 0).float())\n"));
}

class ScaledScores : public FollowedProjection {
 protected:
  // Of weights that `code` makes of `weights`, `ids` and `scores`.
  bool of(const std::string& code, const std::string& pick = kPick) {
    follow(pick + code + kRunExperts);
    const RouterDecision decision = decide(*graph_, *flow_);
    if (!decision.router)
      throw std::invalid_argument(
          "no router was found: " + std::string(decision.skipped ? to_string(decision.skipped->reason) : "") + code);
    const ScaledWeights weights = scaled_weights(*graph_, *decision.router);
    of_experts_ = weights.have_factors_of_experts;
    return weights.are_scaled_scores;
  }
  bool of_experts_ = false;
};

TEST_F(ScaledScores, AreScoresTimesFactors) {
  EXPECT_TRUE(of(""));
  EXPECT_TRUE(of("    weights = weights / weights.sum(-1, keepdim=True)\n"));
  EXPECT_TRUE(of("    weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * 2.5\n"));
  EXPECT_TRUE(of("    weights = weights * ((weights > 0.2).float() * (ids > 0).float())\n"));
  EXPECT_TRUE(of("    weights = (weights / torch.clamp_min(weights.sum(-1, keepdim=True), 1e-9)).half().float()\n"));
  EXPECT_TRUE(of("    weights /= weights.sum(-1, keepdim=True)\n"));
  EXPECT_TRUE(of("    weights = weights * self.expert_scale[ids]\n"));
  EXPECT_TRUE(of("    weights = weights * (weights > 0.2).float()\n"));
  EXPECT_TRUE(of("    weights = weights.masked_fill(weights < 0.2, 0.0)\n"));
  EXPECT_TRUE(of("    weights = torch.where(weights < 0.2, torch.zeros_like(weights), weights)\n"));
  EXPECT_TRUE(of("    weights = scores.gather(-1, ids)\n"));
  EXPECT_TRUE(of("    weights = torch.softmax(weights, -1)\n"));
  EXPECT_TRUE(of("    weights[:, 1:] *= 0.5\n"));
}

TEST_F(ScaledScores, MayHaveFactorsOfExperts) {
  of("    weights = 2.5 * weights / weights.sum(-1, keepdim=True)\n");
  EXPECT_FALSE(of_experts_);
  of("    weights = weights * self.expert_scale[ids]\n");
  EXPECT_TRUE(of_experts_);
  of("    weights = weights * self.expert_scale[:2]\n");
  EXPECT_TRUE(of_experts_);
  of("    weights[:, 1:] *= 0.5\n");
  EXPECT_TRUE(of_experts_);
}

TEST_F(ScaledScores, AreOfTheScoringOfSelectedLogits) {
  EXPECT_TRUE(of("", R"(
    values, ids = torch.topk(logits, 2, -1)
    weights = torch.softmax(values, -1)
)"));
  EXPECT_TRUE(of("", R"(
    values, ids = torch.topk(logits, 2, -1)
    weights = torch.sigmoid(values)
)"));
}

// Ids that stand beside the weights of others.
TEST_F(ScaledScores, AreAtTheIdsThatAreReported) {
  EXPECT_TRUE(of("    ids = ids.int().long()\n"));
  EXPECT_TRUE(of("    ids = ids.masked_fill(weights < 0.2, -1)\n"));
  EXPECT_TRUE(of("    ids.masked_fill_(weights < 0.2, -1)\n"));
  EXPECT_TRUE(of("    ids[weights < 0.2] = -1\n"));
  EXPECT_TRUE(of("    ids = torch.where(weights < 0.2, torch.full_like(ids, -1), ids)\n"));
  EXPECT_TRUE(of("    weights = scores.gather(-1, ids.unsqueeze(-1).squeeze(-1))\n"));
  for (const std::string mask : {"dropped", "weights > 0.2"}) {
    const bool is_same =
        of("    dropped = ids == 3\n    weights = weights.masked_fill(dropped, 0.0)\n"
           "    ids = ids.masked_fill(" +
           mask + ", 0)\n");
    EXPECT_EQ(is_same, mask == "dropped");
  }
  EXPECT_FALSE(of("    ids = ids.masked_fill(weights < 0.2, 0)\n"));
  EXPECT_FALSE(of("    ids.masked_fill_(weights < 0.2, 0)\n"));
  EXPECT_FALSE(of("    ids[weights < 0.2] = 0\n"));
  EXPECT_FALSE(of("    ids = torch.where(weights < 0.2, torch.zeros_like(ids), ids)\n"));
  EXPECT_FALSE(of("    ids[:, 1] = (ids[:, 0] + 1) % 6\n"));
  EXPECT_FALSE(of("    ids.copy_(ids.flip(1))\n"));
}

// A sum over tokens is none of a token's factors, and none of an expert's if other tokens have another.
TEST_F(ScaledScores, AreNotDividedByWhatTokensShare) {
  EXPECT_TRUE(of("    weights = weights / weights.sum(1, keepdim=True)\n", R"(
    flat = logits.reshape(-1, 6)
    scores = torch.softmax(flat, -1)
    weights, ids = torch.topk(scores, 2, -1)
)"));
  EXPECT_FALSE(of_experts_);
  EXPECT_TRUE(of("    weights = weights / weights.sum()\n"));
  EXPECT_FALSE(of_experts_);
  const std::string by_sample = R"(
    scores = torch.softmax(logits.reshape(2, -1, 6), -1)
    weights, ids = torch.topk(scores, 2, -1)
)";
  EXPECT_FALSE(of("    weights = weights / weights.sum(1, keepdim=True)\n", by_sample));
  EXPECT_FALSE(of("    weights = weights / weights.sum(0, keepdim=True)\n", by_sample));
  EXPECT_TRUE(of("    weights = weights / weights.sum(2, keepdim=True)\n", by_sample));
  EXPECT_FALSE(of_experts_);
  EXPECT_TRUE(of("    weights = weights / weights.sum([0, 1], keepdim=True)\n", by_sample));
  EXPECT_TRUE(of_experts_);
}

TEST_F(ScaledScores, AreNothingElse) {
  EXPECT_FALSE(of("    weights = weights.pow(2.0)\n"));
  EXPECT_FALSE(of("    weights = weights * weights\n"));
  EXPECT_FALSE(of("    weights = weights.clamp(max=0.4)\n"));
  EXPECT_FALSE(of("    weights = weights.clamp(0.1, 0.4)\n"));
  EXPECT_FALSE(of("    weights = torch.relu(weights - 0.2)\n"));
  EXPECT_FALSE(of("    weights = weights + 0.5\n"));
  EXPECT_FALSE(of("    weights = (weights > 0.2).float()\n"));
  EXPECT_FALSE(of("    weights[:, 1:].pow_(2.0)\n"));
  EXPECT_FALSE(of("    weights = weights + 1e-6\n"));
  EXPECT_FALSE(of("    weights = weights.clamp(min=1e-9)\n"));
  EXPECT_FALSE(of("    weights = weights + weights.sum(-1, keepdim=True)\n"));
  EXPECT_FALSE(of("    weights = torch.softmax(weights / 0.5, -1)\n"));
  EXPECT_FALSE(of("    weights = torch.softmax(weights / weights.sum(-1, keepdim=True), -1)\n"));
  EXPECT_FALSE(of("    weights = torch.sigmoid(weights)\n"));
  EXPECT_FALSE(of("    weights = weights * ((weights > 0.2).float() * 0.5 + 0.5)\n"));
  EXPECT_FALSE(of("    weights.clamp_(max=0.4)\n"));
  EXPECT_FALSE(of("    weights.view(-1).clamp_(max=0.4)\n"));
  EXPECT_FALSE(of("    weights = weights.masked_fill(weights < 0.2, 1.0)\n"));
}

}  // namespace
}  // namespace moetap::hooks::testing
