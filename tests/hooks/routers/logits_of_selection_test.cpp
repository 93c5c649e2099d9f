#include "hooks/routers/logits_of_selection.h"

#include <ostream>

#include "hooks/routers/router_decision.h"
#include "hooks/routers/scaled_scores.h"
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

// Makes `read` of `logits` for the selection. The weights are made of `logits`.
struct Selection {
  const char* name;
  std::string code;
  const char* expected = "read";
};

void PrintTo(const Selection& selection, std::ostream* stream) {
  *stream << selection.name;
}

const std::string kOutside = R"(
    best = logits.view(-1, 3, 2).amax(-1)
    groups = torch.topk(best, 2, -1)[1]
    inside = torch.zeros_like(best).scatter(1, groups, 1.0)
    outside = inside.unsqueeze(-1).expand(-1, 3, 2).reshape(-1, 6) == 0
)";

class LogitsOfSelection : public FollowedProjection, public ::testing::WithParamInterface<Selection> {
 protected:
  FoundRouter router_of(const std::string& weights) {
    follow(GetParam().code + "    ids = torch.topk(read, 2, -1)[1]\n    weights = " + weights + kRunExperts);
    const RouterDecision found = decide(*graph_, *flow_);
    if (!found.router.has_value()) throw std::invalid_argument("no router");
    return *found.router;
  }
};

TEST_P(LogitsOfSelection, AreReadByThePick) {
  const FoundRouter router = router_of("torch.softmax(logits, -1).gather(1, ids)");
  EXPECT_EQ(router.logits, value(GetParam().expected));
  EXPECT_EQ(router.scoring, "softmax");
  ASSERT_NE(router.scores, nullptr);
  EXPECT_EQ(router.scores->node()->input(0), value("logits"));
  const bool same = router.logits == value("logits");
  EXPECT_EQ(scores_are_plain(*graph_, router), same) << "the scores are made of the reported logits";
  EXPECT_TRUE(scaled_weights(*graph_, router).are_scaled_scores);
}

TEST_P(LogitsOfSelection, AreReadByThePickWherePickedOnesAreScored) {
  const FoundRouter router = router_of("torch.sigmoid(torch.gather(logits, 1, ids))");
  EXPECT_EQ(router.logits, value(GetParam().expected));
  EXPECT_EQ(router.scores, nullptr);
}

INSTANTIATE_TEST_SUITE_P(
    Routers, LogitsOfSelection,
    ::testing::Values(
        Selection{"LimitedToGroups", kOutside + "    read = logits.masked_fill(outside, -1e30)\n"},
        Selection{"LimitedByWhere",
                  kOutside + "    read = torch.where(outside, torch.full_like(logits, -1e9), logits)\n"},
        Selection{"LimitedByASum", kOutside + "    read = logits + outside.to(logits.dtype) * -1e9\n"},
        Selection{"Masked", "    read = logits.masked_fill(self.expert_scale > 1, -1e30)\n"},
        Selection{"MaskAdded", "    read = logits + (self.expert_scale > 1).to(logits.dtype) * -1e9\n"},
        Selection{"Noise",
                  "    read = logits + torch.randn_like(logits) * torch.softplus(torch.linear(x, self.gate))\n"},
        Selection{"AveragedWithTheMean", "    read = 0.3 * logits + 0.7 * logits.mean(0, keepdim=True)\n"},
        Selection{"OfAnotherToken", "    read = torch.roll(logits, 1, 0)\n"},
        Selection{"OfTheTokenBefore", "    read = torch.cat([logits[:1], logits[:-1]], 0)\n"},
        Selection{"OfTheFirstToken", "    read = logits[:1].expand(x.size(0), 6)\n"},
        Selection{"OfTokensByNumber", "    read = torch.index_select(logits, 0, torch.arange(x.size(0)) // 2)\n"},
        Selection{"Bias", "    read = logits + self.expert_scale\n", "logits"},
        Selection{"BiasOfAnotherType", "    read = logits.to(6) + self.expert_scale.unsqueeze(0).to(6)\n", "logits"},
        Selection{"Sinkhorn", "    read = torch.exp(logits) / torch.exp(logits).sum(0)\n", "logits"},
        Selection{"Copied", "    read = logits.contiguous()\n", "logits"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(FollowedProjection, LogitsThatAreLimitedEnterTheScoring) {
  follow(kOutside + R"(
    read = logits.masked_fill(outside, -1e30)
    weights, ids = torch.topk(torch.softmax(read, -1), 2, -1)
)" + kRunExperts);
  const RouterDecision found = decide(*graph_, *flow_);
  ASSERT_TRUE(found.router.has_value());
  EXPECT_EQ(found.router->logits, value("read"));
}

}  // namespace
}  // namespace moetap::hooks::testing
