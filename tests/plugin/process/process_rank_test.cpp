#include "plugin/process/process_rank.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

class ProcessRankTest : public ::testing::Test {
 protected:
  ProcessRankTest() {
    for (const char* name : kVariables) {
      if (const char* value = std::getenv(name)) before_[name] = value;
    }
    set({});
  }
  ~ProcessRankTest() override { set(before_); }

  /// These variables and no others of those that count.
  static void set(const std::map<std::string, std::string>& values) {
    for (const char* name : kVariables) ::unsetenv(name);
    for (const auto& [name, value] : values) ::setenv(name.c_str(), value.c_str(), /*overwrite=*/1);
  }

  static void expect(const std::map<std::string, std::string>& values, int64_t rank, int64_t world_size) {
    set(values);
    const ProcessRank found = process_rank_from_environment();
    EXPECT_EQ(found.rank, rank);
    EXPECT_EQ(found.world_size, world_size);
  }

  static std::string refusal(const std::map<std::string, std::string>& values) {
    set(values);
    return error_of([] { process_rank_from_environment(); });
  }

 private:
  static constexpr const char* kVariables[] = {"RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"};
  std::map<std::string, std::string> before_;
};

TEST_F(ProcessRankTest, AloneIsRank0Of1) {
  expect({}, 0, 1);
  expect({{"RANK", ""}, {"OMPI_COMM_WORLD_RANK", ""}}, 0, 1);
  expect({{"WORLD_SIZE", "4"}}, 0, 1);
}

TEST_F(ProcessRankTest, TorchrunGoesOverMpi) {
  expect({{"RANK", "2"}, {"WORLD_SIZE", "4"}}, 2, 4);
  expect({{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}}, 1, 2);
  expect({{"RANK", "2"}, {"WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "x"}}, 2, 4);
  expect({{"RANK", ""}, {"WORLD_SIZE", "9"}, {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}}, 1, 2);
}

TEST_F(ProcessRankTest, ARankWithoutASizeIsTheLast) {
  expect({{"RANK", "5"}}, 5, 6);
  expect({{"OMPI_COMM_WORLD_RANK", "0"}}, 0, 1);
}

TEST_F(ProcessRankTest, WhatIsNoRankNamesItsVariable) {
  for (const char* value : {"-1", "+1", "one", " 1", "1 ", "1.5", "0x1", "9223372036854775808"}) {
    EXPECT_EQ(refusal({{"RANK", value}}),
              std::string("RANK must be a whole number of 0 or more, got \"") + value + "\"");
  }
  EXPECT_EQ(refusal({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "two"}}),
            "OMPI_COMM_WORLD_SIZE must be a whole number of 0 or more, got \"two\"");
  EXPECT_EQ(refusal({{"RANK", "4"}, {"WORLD_SIZE", "4"}}), "RANK must be below WORLD_SIZE, got 4 of 4");
  EXPECT_EQ(refusal({{"RANK", "0"}, {"WORLD_SIZE", "0"}}), "RANK must be below WORLD_SIZE, got 0 of 0");
  EXPECT_EQ(refusal({{"RANK", "9223372036854775807"}}),
            "RANK must be below WORLD_SIZE, got 9223372036854775807 of 9223372036854775807");
}

}  // namespace
}  // namespace moetap::plugin
