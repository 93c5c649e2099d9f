#include "plugin/process/error_text.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace moetap::plugin {
namespace {

TEST(ErrorText, IsTheFirstLine) {
  EXPECT_EQ(one_line(std::runtime_error("cannot write a: disk full")), "cannot write a: disk full");
  EXPECT_EQ(one_line(std::runtime_error("what was wrong\nwhere\nwhen")), "what was wrong");
}

TEST(ErrorText, HasNoBacktrace) {
  try {
    TORCH_CHECK(false, "x must be [T, E], got [", 3, "]");
  } catch (const std::exception& error) {
    ASSERT_NE(std::string(error.what()), "x must be [T, E], got [3]") << "LibTorch adds no backtrace any more";
    EXPECT_EQ(one_line(error), "x must be [T, E], got [3]");
  }
}

}  // namespace
}  // namespace moetap::plugin
