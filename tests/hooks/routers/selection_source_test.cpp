#include "hooks/routers/selection_source.h"

#include "hooks/routers/insert_router.h"
#include "hooks/routers/router_decision.h"
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class SelectionSource : public FollowedProjection {
 protected:
  // The name of what is passed for the router as its choice; empty: nothing is.
  std::string choice(const std::string& code) {
    follow(code + kRunExperts);
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
    ids = picked.int().long().contiguous().view(-1, 2)
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
  follow(R"(
    values, order = torch.topk(logits, 3, -1)
    first = order[:, :2]
    last = order[:, 1:]
    return first + last
)");
  const auto source_of = [&](const std::string& ids) {
    return selection_source({value("order")->node(), {value(ids)}, -1, std::nullopt});
  };
  EXPECT_EQ(source_of("first"), value("logits"));
  EXPECT_EQ(source_of("last"), nullptr);
  EXPECT_EQ(source_of("values"), nullptr);
}

TEST_F(SelectionSource, IsUnknownForIdsThatAreChanged) {
  EXPECT_EQ(choice(R"(
    weights, picked = torch.topk(torch.softmax(logits, -1), 2, -1)
    ids = torch.where(weights > 0.1, picked, picked[:, :1])
)"),
            "");
}

TEST_F(SelectionSource, IsUnknownForIdsThatAreWrittenTo) {
  for (const char* write : {"ids[:, 1] = (ids[:, 0] + 1) % 6", "ids.copy_(ids.flip(1))", "ids[:, 1].fill_(0)",
                            "ids.view(-1)[::2] = 1", "ids.add_(1).remainder_(6)"}) {
    EXPECT_EQ(
        choice("    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)\n    " + std::string(write) + "\n"), "")
        << write;
  }
}

// The operator gets it, but no copy is made for it.
TEST_F(SelectionSource, IsNotPassedOnceItWasWrittenTo) {
  for (const bool is_written : {false, true}) {
    follow("    values, ids = torch.topk(logits, 2, -1)\n" + std::string(is_written ? "    logits[0] = 0.0\n" : "") +
           "    weights = torch.relu(values)\n    return weights + logits.sum()\n");
    FoundRouter router;
    router.form = "slots";
    router.choice = value("logits");
    router.selected = {value("ids")};
    router.weights = {value("weights")};
    const InPlaceWrites writes(*graph_);
    ForwardHandle handle(*graph_, graph_->graph()->inputs()[1]);
    insert_router(router, HookPoint(), writes, handle);
    const jit::Value* passed = nullptr;
    for (jit::Node* node : graph_->graph()->nodes()) {
      if (std::string(node->kind().toQualString()) == "moetap::router") passed = node->input(8);
    }
    ASSERT_NE(passed, nullptr);
    EXPECT_EQ(passed == value("logits"), !is_written);
    EXPECT_EQ(passed->mustBeNone(), is_written);
  }
}

}  // namespace
}  // namespace moetap::hooks::testing
