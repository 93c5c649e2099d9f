#include "hooks/routers/selection_source.h"

#include "hooks/routers/insert_router.h"
#include "hooks/routers/router_decision.h"
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

// Experts that use `ids` and `weights`.
const std::string kApply = R"(
    chosen = self.expert_weights[ids.reshape(-1)]
    rows = x.repeat_interleave(ids.size(1), 0).unsqueeze(1)
    outputs = torch.bmm(rows, chosen).squeeze(1) * weights.reshape(-1, 1)
    return outputs
)";

class SelectionSource : public FollowedProjection {
 protected:
  // The name of what is passed for the router as its choice; empty: nothing is.
  std::string choice(const std::string& code) {
    follow(code + kApply);
    const RouterDecision decision = decide(*graph_, *flow_);
    if (!decision.router) throw std::invalid_argument("no router was found");
    const jit::Value* found = decision.router->choice;
    return found == nullptr ? "" : found->debugNameBase();
  }
};

TEST_F(SelectionSource, IsWhatThePickReads) {
  EXPECT_EQ(choice(R"(
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
)"),
            "scores");
  EXPECT_EQ(choice(R"(
    scores = torch.sigmoid(logits)
    biased = scores + self.expert_scale
    best, ids = torch.topk(biased, 2, -1)
    weights = torch.gather(scores, -1, ids)
)"),
            "biased");
}

TEST_F(SelectionSource, FollowsIdsThatStayTheSame) {
  EXPECT_EQ(choice(R"(
    values, picked = torch.topk(logits, 2)
    ids = picked.to(torch.int32).contiguous().view(-1, 2)
    weights = torch.softmax(values, -1)
)"),
            "logits");
  EXPECT_EQ(choice(R"(
    values, order = torch.sort(logits, -1, True)
    ids = order[:, :2]
    weights = torch.softmax(values[:, :2], -1)
)"),
            "logits");
}

TEST_F(SelectionSource, IsUnknownForIdsOfAnotherOrder) {
  EXPECT_EQ(choice(R"(
    values, order = torch.sort(logits, -1)
    ids = order[:, -2:]
    weights = torch.softmax(values[:, -2:], -1)
)"),
            "");
  EXPECT_EQ(choice(R"(
    values, order = torch.topk(logits, 3, -1)
    ids = order[:, 1:]
    weights = torch.softmax(values[:, 1:], -1)
)"),
            "");
}

TEST_F(SelectionSource, IsUnknownForIdsThatAreChanged) {
  EXPECT_EQ(choice(R"(
    weights, picked = torch.topk(torch.softmax(logits, -1), 2, -1)
    ids = torch.where(weights > 0.1, picked, picked[:, :1])
)"),
            "");
}

// The operator gets it, but no copy is made for it.
TEST_F(SelectionSource, IsNotPassedOnceItWasWrittenTo) {
  const auto passed = [&](const std::string& code) {
    follow(code + kApply);
    const RouterDecision decision = decide(*graph_, *flow_);
    EXPECT_NE(decision.router->choice, nullptr);
    const InPlaceWrites writes(*graph_);
    ForwardHandle handle(*graph_, graph_->graph()->inputs()[1]);
    HookPoint hook;
    insert_router(*decision.router, hook, writes, handle);
    for (jit::Node* node : graph_->graph()->nodes()) {
      if (std::string(node->kind().toQualString()) == "moetap::router") return node->input(8);
    }
    throw std::invalid_argument("no operator was inserted");
  };
  const jit::Value* kept = passed(R"(
    scores = torch.sigmoid(logits)
    biased = scores + self.expert_scale
    best, ids = torch.topk(biased, 2, -1)
    weights = torch.gather(scores, -1, ids)
)");
  EXPECT_EQ(kept, value("biased"));
  const jit::Value* written = passed(R"(
    scores = torch.sigmoid(logits)
    biased = scores + self.expert_scale
    best, ids = torch.topk(biased, 2, -1)
    biased[0] = 0.0
    weights = torch.gather(scores, -1, ids)
)");
  EXPECT_TRUE(written->mustBeNone());
}

}  // namespace
}  // namespace moetap::hooks::testing
