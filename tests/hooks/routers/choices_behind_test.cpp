#include "hooks/routers/choices_behind.h"

#include <set>

#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class ChoicesBehindTest : public FollowedProjection {};

TEST_F(ChoicesBehindTest, AreTheLatestOnEachWay) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    first = torch.bmm(x.unsqueeze(1), self.expert_weights[ids[:, 0]]).squeeze(1)
    second = torch.bmm(x.unsqueeze(1), self.expert_weights[ids[:, 1]]).squeeze(1)
    both = torch.stack([torch.relu(first), second + x], 1)
    shared = torch.relu(x)
    return both * weights.unsqueeze(-1), shared
)");
  const ChoicesBehind choices(*graph_, *flow_);
  const auto places = [&](const std::string& name) {
    std::set<int> all;
    for (const Fact* fact : choices.of(value(name))) all.insert(fact->place);
    return all;
  };
  EXPECT_EQ(places("first"), (std::set<int>{0}));
  EXPECT_EQ(places("second"), (std::set<int>{1}));
  EXPECT_EQ(places("both"), (std::set<int>{0, 1}));
  EXPECT_TRUE(choices.of(value("shared")).empty()) << "no expert has taken part";
}

TEST_F(ChoicesBehindTest, AreReachedByWhatIsAsked) {
  follow(R"(
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    outs = torch.einsum("td,tkdf->tkf", [x, self.expert_weights[ids]])
    wide = torch.relu(outs)
    return (wide * weights.unsqueeze(-1)).sum(1)
)");
  const ChoicesBehind choices(*graph_, *flow_);
  std::set<const jit::Value*> seen;
  choices.walk(value("wide"), [&](const jit::Value* one) {
    seen.insert(one);
    return one != value("outs");
  });
  EXPECT_TRUE(seen.contains(value("outs")));
  EXPECT_FALSE(seen.contains(value("x"))) << "it lies before the choice";
}

}  // namespace
}  // namespace moetap::hooks::testing
