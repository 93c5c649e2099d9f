#include "plugin/dump/shard_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/file_size_limit.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kNoLimit = int64_t{1} << 30;

/// Three columns with dump rows [first, first + num_rows): 2 + 8 + 12 bytes for each row.
std::vector<DumpColumn> columns_of(int64_t first, int64_t num_rows) {
  const at::Tensor numbers = at::arange(first, first + num_rows, at::kLong);
  return {{"selected", numbers.to(at::kShort)},
          {"sample", numbers},
          {"weights", numbers.unsqueeze(1).expand({num_rows, 3}).to(at::kFloat).contiguous()}};
}

ShardHead head_of(const std::vector<DumpColumn>& columns) {
  ShardHead head{"language_model", 2, 100, 1, {{"0", "layers.0"}}, {}};
  for (const DumpColumn& column : columns) head.columns.push_back(column_of(column));
  return head;
}

class ShardRowsTest : public ::testing::Test {
 protected:
  /// Writes rows 0 to 2 in one frame and rows 3 and 4 in the next.
  void write_rows() {
    ShardRows rows(path_, head_of(columns_of(0, 1)), kNoLimit);
    rows.append(columns_of(0, 3), 0, 3);
    rows.append(columns_of(3, 2), 0, 2);
    rows.sync();
  }

  SafetensorsFile shard_of(const ShardRows& rows) {
    const std::string path = folder_.file("shard.safetensors");
    rows.write_shard(path);
    return read_safetensors(path);
  }

  void expect_rows(const ShardRows& rows, int64_t number) {
    EXPECT_EQ(rows.num_rows(), number);
    const SafetensorsFile shard = shard_of(rows);
    EXPECT_EQ(shard.tensors.size(), 3u);
    for (const DumpColumn& column : columns_of(0, number)) {
      const at::Tensor& read = shard.tensors.at(column.name);
      EXPECT_EQ(read.scalar_type(), column.rows.scalar_type());
      EXPECT_TRUE(at::equal(read, column.rows)) << column.name;
    }
  }

  TemporaryFolder folder_;
  const std::string path_ = folder_.file("language_model-000002.rows");
};

TEST_F(ShardRowsTest, RowsOfManyForwardsBecomeColumns) {
  ShardRows rows(path_, head_of(columns_of(0, 1)), kNoLimit);
  rows.append(columns_of(0, 3), 0, 3);
  rows.append(columns_of(0, 10), 3, 4);  // a part of a forward's rows
  expect_rows(rows, 7);
  EXPECT_EQ(shard_of(rows).metadata,
            (std::map<std::string, std::string>{
                {"schema_version", "1"}, {"rank", "1"}, {"first_row", "100"}, {"hooks", R"({"0":"layers.0"})"}}));
}

TEST_F(ShardRowsTest, ManyRowsPassThroughTheBuffers) {
  ShardRows rows(path_, head_of(columns_of(0, 1)), kNoLimit);
  constexpr int64_t kRows = 20'000;
  rows.append(columns_of(0, kRows), 0, kRows);
  rows.append(columns_of(kRows, 1), 0, 1);
  expect_rows(rows, kRows + 1);
}

TEST_F(ShardRowsTest, AFullShardIsNotLargerThanItsLimit) {
  constexpr int64_t kLimit = 1000;
  ShardRows rows(path_, head_of(columns_of(0, 1)), kLimit);
  const int64_t room = rows.room();
  ASSERT_GT(room, 1);
  rows.append(columns_of(0, room), 0, room);
  EXPECT_EQ(rows.room(), 0);
  rows.write_shard(folder_.file("shard"));
  EXPECT_LE(std::filesystem::file_size(folder_.file("shard")), static_cast<uintmax_t>(kLimit));
}

TEST_F(ShardRowsTest, OneRowFitsWhateverTheLimit) {
  EXPECT_EQ(ShardRows(path_, head_of(columns_of(0, 1)), 1).room(), 1);
}

TEST_F(ShardRowsTest, TakesTheSameColumnsOfTheSameHooksOnly) {
  const ShardRows rows(path_, head_of(columns_of(0, 1)), kNoLimit);
  const std::map<std::string, std::string> hooks = {{"0", "layers.0"}};
  EXPECT_TRUE(rows.takes(columns_of(7, 2), hooks));
  EXPECT_FALSE(rows.takes(columns_of(7, 2), {{"0", "layers.1"}}));
  auto columns = columns_of(7, 2);
  columns.pop_back();
  EXPECT_FALSE(rows.takes(columns, hooks));
  columns = columns_of(7, 2);
  columns[0].name = "other";
  EXPECT_FALSE(rows.takes(columns, hooks));
  columns = columns_of(7, 2);
  columns[0].rows = columns[0].rows.to(at::kInt);
  EXPECT_FALSE(rows.takes(columns, hooks));
  columns = columns_of(7, 2);
  columns[2].rows = columns[2].rows.narrow(1, 0, 2).contiguous();
  EXPECT_FALSE(rows.takes(columns, hooks));
}

TEST_F(ShardRowsTest, GoesOnBehindItsLastWholeFrame) {
  write_rows();
  const std::string whole = read_text_file(path_);
  int64_t most = 0;
  constexpr size_t kStep = 7;  // every size would take seconds, since each shard is synced
  for (size_t size = whole.size() % kStep; size <= whole.size(); size += kStep) {
    write_text_file(path_, whole.substr(0, size));
    const auto rows = ShardRows::reopen(path_, kNoLimit);
    if (!rows) {
      EXPECT_EQ(most, 0);  // not even the head is whole
      continue;
    }
    EXPECT_EQ(rows->head().series, "language_model");
    EXPECT_EQ(rows->head().number, 2);
    EXPECT_EQ(rows->head().first_row, 100);
    EXPECT_EQ(rows->head().rank, 1);
    EXPECT_TRUE(rows->takes(columns_of(0, 1), {{"0", "layers.0"}}));
    const int64_t kept = rows->num_rows();
    EXPECT_TRUE(kept == 0 || kept == 3 || kept == 5) << kept;
    EXPECT_GE(kept, most);
    most = kept;
    rows->append(columns_of(kept, 2), 0, 2);
    expect_rows(*rows, kept + 2);
  }
  EXPECT_EQ(most, 5);
}

TEST_F(ShardRowsTest, WhatIsNoFileOfRowsIsNotOpened) {
  EXPECT_EQ(error_of([&] { ShardRows::reopen(path_, kNoLimit); }),
            "cannot read " + path_ + ": No such file or directory");
  write_text_file(path_, "text of someone else");
  EXPECT_EQ(ShardRows::reopen(path_, kNoLimit), nullptr);
  EXPECT_EQ(read_text_file(path_), "text of someone else");
  EXPECT_EQ(error_of([&] { ShardRows(path_, head_of(columns_of(0, 1)), kNoLimit); }),
            "cannot write " + path_ + ": File exists");
}

TEST_F(ShardRowsTest, KeepsWholeForwardsOnly) {
  struct Case {
    int64_t asked, kept;
  };
  for (const auto& [asked, kept] : {Case{9, 5}, Case{5, 5}, Case{4, 3}, Case{3, 3}, Case{2, 0}, Case{0, 0}}) {
    write_rows();
    const auto rows = ShardRows::reopen(path_, kNoLimit);
    rows->keep(asked);
    EXPECT_EQ(rows->num_rows(), kept) << asked;
    rows->append(columns_of(kept, 1), 0, 1);
    expect_rows(*rows, kept + 1);
    rows->remove();
  }
}

TEST_F(ShardRowsTest, RemovesItsFile) {
  write_rows();
  ShardRows::reopen(path_, kNoLimit)->remove();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ShardRowsTest, AShardOfRowsThatAreGoneIsNotWritten) {
  write_rows();
  const std::string shard = folder_.file("shard");
  const auto rows = ShardRows::reopen(path_, kNoLimit);
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) - 1);
  EXPECT_EQ(error_of([&] { rows->write_shard(shard); }), "cannot read " + path_ + ": expected 5 rows, got 3");
  EXPECT_FALSE(std::filesystem::exists(shard));
  std::filesystem::remove(path_);
  EXPECT_EQ(error_of([&] { rows->check_in_place(); }),
            "cannot write " + path_ + ": it was removed while the run goes on");
  EXPECT_EQ(error_of([&] { rows->write_shard(shard); }), "cannot read " + path_ + ": No such file or directory");
}

TEST_F(ShardRowsTest, AShardThatDoesNotFitOnTheDiskDoesNotAppear) {
  write_rows();
  const auto rows = ShardRows::reopen(path_, kNoLimit);
  const std::string shard = folder_.file("shard");
  {
    const FileSizeLimit limit(200);
    EXPECT_EQ(error_of([&] { rows->write_shard(shard); }), "cannot write " + shard + ": File too large");
  }
  EXPECT_FALSE(std::filesystem::exists(shard));
  expect_rows(*rows, 5);
}

TEST_F(ShardRowsTest, AHeadThatIsNotMoetapsIsRefusedInOneLine) {
  for (const char* head : {"not JSON", "{}", R"({"series": 7})"}) {
    std::filesystem::remove(path_);
    FrameLog(path_).append(kShardBegun, head);
    EXPECT_EQ(error_of([&] { ShardRows::reopen(path_, kNoLimit); }),
              path_ + ": its first frame is whole, but its content is not what moetap writes");
  }
}

// The frame is whole, but its rows do not fit the head, as if another version had written it.
TEST_F(ShardRowsTest, FramesThatAreTooShortAreRefused) {
  write_rows();
  const int64_t end_bytes = static_cast<int64_t>(std::filesystem::file_size(path_));
  FrameLog(path_, end_bytes).append(kShardRows, "1234567");
  EXPECT_EQ(error_of([&] { ShardRows::reopen(path_, kNoLimit); }), "a frame of a shard's rows ends early");
  const uint64_t number = 4;
  FrameLog(path_, end_bytes).append(kShardRows, {reinterpret_cast<const char*>(&number), sizeof(number)});
  EXPECT_EQ(error_of([&] { ShardRows::reopen(path_, kNoLimit)->write_shard(folder_.file("shard")); }),
            "cannot read " + path_ + ": a frame ends early");
}

}  // namespace
}  // namespace moetap::plugin
