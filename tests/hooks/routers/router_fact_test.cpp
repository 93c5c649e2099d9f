#include "hooks/routers/router_fact.h"

#include <gtest/gtest.h>

namespace moetap::hooks {
namespace {

namespace jit = torch::jit;

class RouterFact : public ::testing::Test {
 protected:
  Fact of_role(Role role) {
    Fact fact;
    fact.role = role;
    fact.base = value_;
    return fact;
  }

  jit::Graph graph_;
  jit::Value* value_ = graph_.addInput();
  jit::Value* other_ = graph_.addInput();
};

TEST_F(RouterFact, MergesEachValueOnce) {
  Fact into = of_role(Role::kSlot), from = of_role(Role::kSlot);
  into.picks = {0};
  into.ids = {value_};
  from.picks = {0, 2};
  from.ids = {value_, other_};
  from.weights = {other_};
  from.nested = true;
  merge(into, from);
  EXPECT_EQ(into.picks, (std::set<int>{0, 2}));
  EXPECT_EQ(into.ids, (std::vector<jit::Value*>{value_, other_}));
  EXPECT_EQ(into.weights, std::vector<jit::Value*>{other_});
  EXPECT_TRUE(into.nested);
}

TEST_F(RouterFact, CarriesWeightsOnceItDependsOnAPick) {
  Fact scores = of_role(Role::kScore);
  EXPECT_FALSE(carries_weights(scores));
  scores.picks = {0};
  EXPECT_TRUE(carries_weights(scores));
  EXPECT_TRUE(carries_weights(of_role(Role::kSlot)));
  EXPECT_FALSE(carries_weights(of_role(Role::kIds)));
}

TEST_F(RouterFact, RemembersItselfWhereTheOrderIsLost) {
  Fact ids = of_role(Role::kIds), slots = of_role(Role::kSlot);
  lose_alignment(ids);
  lose_alignment(slots);
  EXPECT_FALSE(ids.aligned);
  EXPECT_EQ(ids.base, nullptr);
  EXPECT_EQ(ids.ids, std::vector<jit::Value*>{value_});
  EXPECT_EQ(slots.weights, std::vector<jit::Value*>{value_});
  ids.ids = {other_};
  lose_alignment(ids);
  EXPECT_EQ(ids.ids, std::vector<jit::Value*>{other_}) << "only what was in order is remembered";
}

TEST_F(RouterFact, OfAnEventNamesTheValueItself) {
  const Fact slots = remembered(of_role(Role::kSlot));
  EXPECT_EQ(slots.weights, std::vector<jit::Value*>{value_});
  EXPECT_EQ(slots.base, value_) << "the order is kept";
  EXPECT_EQ(remembered(of_role(Role::kRouted)).weights, std::vector<jit::Value*>{value_});
}

}  // namespace
}  // namespace moetap::hooks
