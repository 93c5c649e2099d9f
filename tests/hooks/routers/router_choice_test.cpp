// The transfer functions in hooks/routers/router_choice.cpp.
#include "tests/hooks/routers/followed_projection.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class RouterChoice : public FollowedProjection {};

TEST_F(RouterChoice, SeesSampling) {
  follow(R"(
    shares = torch.softmax(torch.topk(logits, 3, -1)[0], -1)
    drawn = torch.multinomial(shares, 1)
    return shares, drawn
)");
  EXPECT_EQ(count(EventKind::kSamples), 1);
}

TEST_F(RouterChoice, MarksPicksOfPickedValues) {
  follow(R"(
    values, places = torch.topk(logits, 3, -1)
    best, at = torch.topk(values, 2, -1)
    ids = torch.gather(places, -1, at)
    return ids
)");
  EXPECT_EQ(flow_->picks().size(), 2u);
  EXPECT_TRUE(fact("ids").nested);
}

TEST_F(RouterChoice, KnowsTheNumberOfPicks) {
  follow(R"(
    order = torch.argsort(logits, -1, True)
    best = torch.argmax(logits, -1)
    first = order[:, :3]
    return best, first
)");
  ASSERT_EQ(flow_->picks().size(), 2u);
  EXPECT_EQ(flow_->picks()[0].k, std::nullopt) << "a sort orders all experts";
  EXPECT_TRUE(flow_->picks()[0].over_all);
  EXPECT_EQ(flow_->picks()[1].k, 1);
  EXPECT_EQ(fact("first").num_slots, 3);
  EXPECT_EQ(fact("first").ids, std::vector<jit::Value*>{value("first")});
}

}  // namespace
}  // namespace moetap::hooks::testing
