#include "hooks/graph/near_misses.h"

#include <gtest/gtest.h>

namespace moetap::hooks {
namespace {

TEST(EditDistance, CountsEdits) {
  EXPECT_EQ(edit_distance("gate", "gate"), 0u);
  EXPECT_EQ(edit_distance("gate", "grate"), 1u);
  EXPECT_EQ(edit_distance("", "gate"), 4u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(Nearest, ComesInOrderOfDistance) {
  const std::vector<std::string> paths = {"norm", "layers.0.mlp", "layers.11.mlp", "layers.0.mlp.gate"};
  EXPECT_EQ(nearest(R"(layers\.(\d+)\.mpl)", paths, 2),
            (std::vector<std::string>{"layers.0.mlp", "layers.0.mlp.gate"}));
  EXPECT_TRUE(nearest("x", {}, 3).empty());
  EXPECT_TRUE(nearest("norm", paths, 0).empty());
}

TEST(Nearest, TakesNumbersForEqual) {
  EXPECT_EQ(nearest("layers.7.gate", {"layer.7.gate", "layers.123.gate"}, 1),
            std::vector<std::string>{"layers.123.gate"});
}

}  // namespace
}  // namespace moetap::hooks
