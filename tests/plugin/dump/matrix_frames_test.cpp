#include "plugin/dump/matrix_frames.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

TEST(MatrixFramesTest, AMatrixIsReadBack) {
  const AttentionMatrix matrix{"12/3/0", at::arange(6, at::kFloat).reshape({2, 3})};
  const Frame frame{kMatrix, 0, to_frame(matrix)};
  const FramedMatrix again = from_frame(frame, "path");
  EXPECT_EQ(again.name, "12/3/0");
  EXPECT_EQ(again.queries, 2);
  EXPECT_EQ(again.keys, 3);
  ASSERT_EQ(again.bytes.size(), matrix.probabilities.nbytes());
  EXPECT_EQ(std::memcmp(again.bytes.data(), matrix.probabilities.const_data_ptr(), again.bytes.size()), 0);
}

TEST(MatrixFramesTest, AFrameThatIsNoMatrixIsRefusedWithItsPath) {
  const std::string whole = to_frame({"12/3/0", at::zeros({2, 3})});
  const size_t head = 4 + 6 + 16;
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(error_of([&] {
                from_frame({kMatrix, 0, whole.substr(0, size)}, "a.matrices");
              }),
              std::string("cannot read a.matrices: ") +
                  (size < head ? "a frame ends early" : "a matrix has not the size that its frame says"));
  }
}

}  // namespace
}  // namespace moetap::plugin
