#include "plugin/formats/file_error.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

TEST(FileErrorTest, SaysWhatFailedWhereAndWhy) {
  EXPECT_EQ(error_of([] { throw_file_error("write", "run/log.json", ENOSPC); }),
            "cannot write run/log.json: No space left on device");
  EXPECT_EQ(error_of([] { throw_file_error("read", "", EACCES); }), "cannot read : Permission denied");
}

}  // namespace
}  // namespace moetap::plugin
