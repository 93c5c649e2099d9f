#include "plugin/process/libtorch_version.h"

#include <gtest/gtest.h>

namespace moetap::plugin {
namespace {

// What is said beside another LibTorch: tests/examples/test_preload_faults.py.
TEST(LibTorchVersion, FitsTheOneThatItIsBuiltFor) {
  EXPECT_EQ(libtorch_mismatch().value_or(""), "");
}

}  // namespace
}  // namespace moetap::plugin
