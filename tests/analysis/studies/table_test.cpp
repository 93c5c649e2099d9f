#include "analysis/studies/table.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace moetap::analysis::studies {
namespace {

Table small_table() {
  Table table("small");
  auto& ids = table.integers("expert_id");
  auto& shares = table.reals("share");
  auto& names = table.texts("name");
  ids = {0, 1};
  shares = {0.5, kUndefined};
  names = {"a", "b"};
  return table;
}

TEST(Table, KeepsItsColumnsInOrder) {
  const Table table = small_table();
  ASSERT_EQ(table.columns().size(), 3U);
  EXPECT_EQ(table.columns()[1]->name, "share");
  EXPECT_EQ(table.num_rows(), 2U);
  EXPECT_EQ(table.find("name")->size(), 2U);
  EXPECT_EQ(table.find("none"), nullptr);
}

TEST(Table, AppendsRowsOfEqualColumnsOnly) {
  Table table = small_table();
  table.append(small_table());
  EXPECT_EQ(table.num_rows(), 4U);
  Table other("small");
  other.integers("expert_id");
  EXPECT_THROW(table.append(other), std::logic_error);
  Table kinds("small");
  kinds.reals("expert_id");
  kinds.reals("share");
  kinds.texts("name");
  EXPECT_THROW(table.append(kinds), std::logic_error);
}

}  // namespace
}  // namespace moetap::analysis::studies
