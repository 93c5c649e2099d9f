#include "plugin/records/counters.h"

#include <gtest/gtest.h>

#include <set>

namespace moetap::plugin {
namespace {

TEST(Counters, EveryCountIsAdded) {
  Counters a;
  Counters b;
  int64_t value = 1;
  for (const CounterInfo& count : kCounters) {
    a.*count.member = value;
    b.*count.member = 100 * value++;
  }
  a.notices = {{"both", 1}, {"one", 2}};
  b.notices = {{"both", 10}, {"other", 20}};
  a += b;
  value = 1;
  for (const CounterInfo& count : kCounters) EXPECT_EQ(a.*count.member, 101 * value++) << count.key.name;
  EXPECT_EQ(a.notices, (std::map<std::string, int64_t>{{"both", 11}, {"one", 2}, {"other", 20}}));
}

TEST(Counters, EveryCountHasItsOwnName) {
  std::set<std::string> names;
  for (const CounterInfo& count : kCounters) {
    EXPECT_TRUE(names.insert(count.key.name).second) << count.key.name;
    Counters one;
    one.*count.member = 1;
    int64_t sum = 0;
    for (const CounterInfo& other : kCounters) sum += one.*other.member;
    EXPECT_EQ(sum, 1) << count.key.name << " is in the table twice";
  }
}

}  // namespace
}  // namespace moetap::plugin
