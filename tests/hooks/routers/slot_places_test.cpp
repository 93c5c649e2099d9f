#include "hooks/routers/slot_places.h"

#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class SlotPlaces : public ::testing::Test {
 protected:
  // The number of the turn in the first loop: 3 - i.
  jit::Value* turn() const { return value_named(graph_, "other")->node()->input(1); }

  jit::Module model_ = compile({.type = "Model", .code = R"(
def forward(self, x: Tensor) -> Tensor:
    out = x
    for i in range(4):
        other = 3 - i
        alike = 3 - i
        out = out + x[i] * x[other] * x[alike]
    for j in range(1, 4):
        shifted = x[j]
        out = out + shifted
    return out
)"});
  MethodGraph graph_{model_, "forward"};
};

TEST_F(SlotPlaces, AreTheSameWhereTheyAreComputedAlike) {
  EXPECT_TRUE(is_same_number(value_named(graph_, "other"), value_named(graph_, "alike")));
  EXPECT_TRUE(is_same_number(turn(), turn()));
  EXPECT_FALSE(is_same_number(turn(), value_named(graph_, "other")));
}

TEST_F(SlotPlaces, CountTheTurnsOfTheirOwnLoop) {
  const jit::Node& first = *value_named(graph_, "other")->node();
  const jit::Node& second = *value_named(graph_, "shifted")->node();
  EXPECT_TRUE(counts_turns(turn(), first));
  EXPECT_FALSE(counts_turns(value_named(graph_, "other"), first));
  EXPECT_FALSE(counts_turns(turn(), second)) << "another loop";
  EXPECT_FALSE(counts_turns(second.input(2), second)) << "begins at 1";
}

TEST(IsPiece, NeedsAPlace) {
  Fact fact;
  EXPECT_FALSE(is_piece(fact));
  fact.place = 0;
  EXPECT_TRUE(is_piece(fact));
}

}  // namespace
}  // namespace moetap::hooks::testing
