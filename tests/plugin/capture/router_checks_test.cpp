#include "plugin/capture/router_checks.h"

#include <gtest/gtest.h>

#include <vector>

namespace moetap::plugin {
namespace {

TEST(RouterChecks, TheFirstCallsAreCheckedUntilTheirVerdictsAreBack) {
  RouterChecks checks(2);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(checks.begin_call(0));  // in flight
  for (int64_t i = 0; i < RouterChecks::kFirstCalls; ++i) checks.came_back(0, 30, {});
  EXPECT_FALSE(checks.begin_call(0));
  EXPECT_TRUE(checks.begin_call(1));
}

// A generation's steps have a token or two, and calls of no tokens prove nothing.
TEST(RouterChecks, GoesOnWhereCallsHaveFewTokens) {
  RouterChecks checks(1);
  for (int i = 0; i < 40; ++i) checks.came_back(0, 0, {});
  EXPECT_TRUE(checks.begin_call(0));
  for (int64_t i = 0; i + 1 < RouterChecks::kMostFirstCalls; ++i) {
    checks.came_back(0, 1, {});
    EXPECT_TRUE(checks.begin_call(0));
  }
  checks.came_back(0, 1, {});
  EXPECT_FALSE(checks.begin_call(0));
}

TEST(RouterChecks, StopsAHookWithoutRightIdsOnce) {
  RouterChecks checks(3);
  checks.came_back(0, 30, {{analysis::kIdsColumn, "wrong"}});
  EXPECT_TRUE(checks.stopped(0));
  EXPECT_FALSE(checks.stop(0));
  checks.came_back(1, 30, {{analysis::kWeightsColumn, "wrong"}});
  EXPECT_FALSE(checks.stopped(1));
  EXPECT_TRUE(checks.stop(2));  // it failed
  checks.came_back(2, 30, {{analysis::kIdsColumn, "wrong"}});
  for (const UnverifiedColumn& column : checks.untold()) EXPECT_EQ(column.stops_hook, column.hook == 0) << column.hook;
}

TEST(RouterChecks, LaterOneOfSoMany) {
  RouterChecks checks(1, 4);
  for (int64_t i = 0; i < RouterChecks::kFirstCalls; ++i) {
    EXPECT_TRUE(checks.begin_call(0));
    checks.came_back(0, 30, {});
  }
  std::vector<int> checked;
  for (int call = 3; call < 14; ++call) {
    if (checks.begin_call(0)) checked.push_back(call);
  }
  EXPECT_EQ(checked, (std::vector<int>{4, 8, 12}));
}

TEST(RouterChecks, WhatDoesNotFitStaysWithheldAndIsToldOnce) {
  RouterChecks checks(2);
  EXPECT_EQ(checks.withheld(1), 0u);
  EXPECT_EQ(checks.reason(1), "");
  checks.came_back(1, 30, {{analysis::kWeightsColumn, "first"}});
  checks.came_back(1, 30, {{analysis::kWeightsColumn, "again"}, {analysis::kScoresColumn, "too"}});
  checks.came_back(1, 30, {});
  EXPECT_EQ(checks.withheld(0), 0u);
  EXPECT_EQ(checks.withheld(1), analysis::kWeightsColumn | analysis::kScoresColumn);
  EXPECT_EQ(checks.reason(1), "scores do not fit: too");
  const auto untold = checks.untold();
  ASSERT_EQ(untold.size(), 2u);
  EXPECT_EQ(untold[0].hook, 1);
  EXPECT_EQ(untold[0].column, analysis::kScoresColumn);
  EXPECT_EQ(untold[1].column, analysis::kWeightsColumn);
  EXPECT_EQ(untold[1].reason, "first");
  checks.told({untold[0]});
  ASSERT_EQ(checks.untold().size(), 1u);
  checks.told(untold);
  EXPECT_TRUE(checks.untold().empty());
}

}  // namespace
}  // namespace moetap::plugin
