#include "hooks/points/hook_point.h"

#include <gtest/gtest.h>

namespace moetap::hooks {
namespace {

TEST(HookKind, IsPrintedAsInspectDoes) {
  EXPECT_STREQ(to_string(HookKind::kRouter), "router");
  EXPECT_STREQ(to_string(HookKind::kAttention), "attention");
}

}  // namespace
}  // namespace moetap::hooks
