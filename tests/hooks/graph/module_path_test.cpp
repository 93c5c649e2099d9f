#include "hooks/graph/module_path.h"

#include <gtest/gtest.h>

namespace moetap::hooks {
namespace {

TEST(PathElements, AreSeparatedByDots) {
  EXPECT_EQ(path_elements("model.layers.0.gate"), (std::vector<std::string>{"model", "layers", "0", "gate"}));
  EXPECT_EQ(path_elements("gate"), std::vector<std::string>{"gate"});
  EXPECT_TRUE(path_elements("").empty());
}

TEST(JoinPath, IsTheWayBack) {
  EXPECT_EQ(join_path({"model", "layers", "0"}), "model.layers.0");
  EXPECT_EQ(join_path({}), "");
}

TEST(IsNumber, MeansDecimalDigits) {
  EXPECT_TRUE(is_number("0"));
  EXPECT_TRUE(is_number("0012"));
  for (const char* other : {"", "-1", "1a", "layer1", "1.5"}) EXPECT_FALSE(is_number(other)) << other;
}

}  // namespace
}  // namespace moetap::hooks
