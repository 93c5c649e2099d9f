#include "plugin/records/forward_record.h"

#include <gtest/gtest.h>

namespace moetap::plugin {
namespace {

TEST(ForwardRecordTest, CountsTheForwardsThatItTellsOf) {
  ForwardRecord record;
  EXPECT_EQ(record.num_forwards(), 1);
  record.replays = 5;  // one record of 5 replays of a captured graph
  EXPECT_EQ(record.num_forwards(), 5);
  ForwardRecord values;
  values.values_only = true;  // values that the host logged after a forward
  EXPECT_EQ(values.num_forwards(), 0);
}

}  // namespace
}  // namespace moetap::plugin
