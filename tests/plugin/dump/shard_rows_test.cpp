#include "plugin/dump/shard_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <limits>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/file_size_limit.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kNoLimit = int64_t{1} << 26;
constexpr int64_t kSmall = int64_t{1} << 14;  // for tests that read and write the columns whole

/// Three columns with dump rows [first, first + num_rows): 2 + 8 + 12 bytes for each row.
std::vector<DumpColumn> columns_of(int64_t first, int64_t num_rows) {
  const at::Tensor numbers = at::arange(first, first + num_rows, at::kLong);
  return {{"selected", numbers.to(at::kShort)},
          {"sample", numbers},
          {"weights", numbers.unsqueeze(1).expand({num_rows, 3}).to(at::kFloat).contiguous()}};
}

ShardHead head_of(const std::vector<DumpColumn>& columns, int64_t max_shard_bytes = kSmall) {
  ShardHead head{"language_model", 2, 100, 1, {{"0", "layers.0"}}, {}};
  head.max_shard_bytes = max_shard_bytes;
  for (const DumpColumn& column : columns) head.columns.push_back(column_of(column));
  return head;
}

class ShardRowsTest : public ::testing::Test {
 protected:
  /// Writes rows 0 to 2 as one forward's and rows 3 and 4 as the next one's.
  void write_rows() {
    std::filesystem::remove(path_);
    ShardRows rows(path_, head_of(columns_of(0, 1)));
    rows.append(columns_of(0, 3), 0, 3);
    rows.append(columns_of(3, 2), 0, 2);
    rows.write();
    rows.sync();
  }

  SafetensorsFile shard_of(ShardRows& rows) {
    const std::string path = folder_.file("shard.safetensors");
    rows.become_shard(path);
    return read_safetensors(path);
  }

  void expect_rows(ShardRows& rows, int64_t number) {
    EXPECT_EQ(rows.num_rows(), number);
    const SafetensorsFile shard = shard_of(rows);
    EXPECT_FALSE(std::filesystem::exists(path_));
    EXPECT_FALSE(std::filesystem::exists(columns_path_));
    EXPECT_EQ(shard.tensors.size(), 3u);
    for (const DumpColumn& column : columns_of(0, number)) {
      const at::Tensor& read = shard.tensors.at(column.name);
      EXPECT_EQ(read.scalar_type(), column.rows.scalar_type());
      EXPECT_TRUE(at::equal(read, column.rows)) << column.name;
    }
  }

  TemporaryFolder folder_;
  const std::string path_ = folder_.file("language_model-000002.rows");
  const std::string columns_path_ = folder_.file("language_model-000002.columns");
};

TEST_F(ShardRowsTest, RowsOfManyForwardsBecomeColumns) {
  ShardRows rows(path_, head_of(columns_of(0, 1)));
  rows.append(columns_of(0, 3), 0, 3);
  rows.write();
  rows.append(columns_of(0, 10), 3, 4);  // a part of a forward's rows
  rows.append(columns_of(7, 1), 0, 1);
  rows.write();
  rows.write();  // nothing is left to write
  EXPECT_EQ(rows.num_rows(), 8);
  const SafetensorsFile shard = shard_of(rows);
  for (const DumpColumn& column : columns_of(0, 8)) {
    EXPECT_TRUE(at::equal(shard.tensors.at(column.name), column.rows)) << column.name;
  }
  EXPECT_EQ(shard.metadata,
            (std::map<std::string, std::string>{
                {"schema_version", "1"}, {"rank", "1"}, {"first_row", "100"}, {"hooks", R"({"0":"layers.0"})"}}));
}

TEST_F(ShardRowsTest, ManyForwardsAreOneWrite) {
  ShardRows rows(path_, head_of(columns_of(0, 1), kNoLimit));
  constexpr int64_t kForwards = 3000;  // more pieces than one system call takes
  for (int64_t i = 0; i < kForwards; ++i) rows.append(columns_of(i, 1), 0, 1);
  rows.write();
  expect_rows(rows, kForwards);
}

TEST_F(ShardRowsTest, LongForwardsPassThroughTheBuffers) {
  ShardRows rows(path_, head_of(columns_of(0, 1), kNoLimit));
  constexpr int64_t kRows = 1'000'000;
  rows.append(columns_of(0, kRows), 0, kRows);
  rows.append(columns_of(kRows, 1), 0, 1);
  rows.write();
  expect_rows(*ShardRows::reopen(path_), kRows + 1);
}

TEST_F(ShardRowsTest, AFullShardIsNotLargerThanItsLimitAndIsNotCopied) {
  constexpr int64_t kLimit = 1000;
  ShardRows rows(path_, head_of(columns_of(0, 1), kLimit));
  const int64_t room = rows.room();
  ASSERT_GT(room, 1);
  rows.append(columns_of(0, room), 0, room);
  rows.write();
  EXPECT_EQ(rows.room(), 0);
  struct stat before {
  }, after{};
  ASSERT_EQ(::stat(columns_path_.c_str(), &before), 0);
  expect_rows(rows, room);
  ASSERT_EQ(::stat(folder_.file("shard.safetensors").c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_LE(after.st_size, kLimit);
}

TEST_F(ShardRowsTest, OnlyTheOwnerReadsShards) {
  for (const int64_t limit : {kSmall, int64_t{1}}) {  // with room left, and full
    ShardRows rows(path_, head_of(columns_of(0, 1), limit));
    rows.append(columns_of(0, 1), 0, 1);
    rows.write();
    struct stat of_columns {
    }, of_shard{};
    ASSERT_EQ(::stat(columns_path_.c_str(), &of_columns), 0);
    EXPECT_EQ(of_columns.st_mode & 0777, 0600u);
    expect_rows(rows, 1);
    ASSERT_EQ(::stat(folder_.file("shard.safetensors").c_str(), &of_shard), 0);
    EXPECT_EQ(of_shard.st_mode & 0777, 0600u);
  }
}

TEST_F(ShardRowsTest, OneRowFitsWhateverTheLimit) {
  EXPECT_EQ(ShardRows(path_, head_of(columns_of(0, 1), 1)).room(), 1);
}

TEST_F(ShardRowsTest, TakesTheSameColumnsOfTheSameHooksOnly) {
  const ShardRows rows(path_, head_of(columns_of(0, 1)));
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

TEST_F(ShardRowsTest, GoesOnBehindItsLastWholeForward) {
  write_rows();
  const std::string whole = read_text_file(path_);
  const std::string columns = read_text_file(columns_path_);
  int64_t most = 0;
  constexpr size_t kStep = 7;  // every size would take seconds, since each shard is synced
  for (size_t size = whole.size() % kStep; size <= whole.size(); size += kStep) {
    write_text_file(path_, whole.substr(0, size));
    write_text_file(columns_path_, columns);
    const auto rows = ShardRows::reopen(path_);
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
    rows->write();
    expect_rows(*rows, kept + 2);
  }
  EXPECT_EQ(most, 5);
}

// As after a power cut that lost blocks of the columns, but none of the frames.
TEST_F(ShardRowsTest, RowsThatNeverReachedTheDiskDoNotCount) {
  write_rows();
  const std::string rows_file = read_text_file(path_);
  const std::string columns = read_text_file(columns_path_);
  const auto kept_of = [&](const std::string& damaged) {
    write_text_file(path_, rows_file);
    write_text_file(columns_path_, damaged);
    const auto rows = ShardRows::reopen(path_);
    const int64_t kept = rows->num_rows();
    rows->append(columns_of(kept, 1), 0, 1);
    rows->write();
    expect_rows(*rows, kept + 1);
    return kept;
  };
  const ShardPlaces places = full_shard(head_of(columns_of(0, 1)));
  for (size_t column = 0; column < places.begin_bytes.size(); ++column) {
    const int64_t row_bytes = column_of(columns_of(0, 1)[column]).end;
    for (int64_t row = 0; row < 5; ++row) {
      std::string damaged = columns;
      damaged.at(static_cast<size_t>(places.begin_bytes[column] + row * row_bytes)) ^= 1;
      EXPECT_EQ(kept_of(damaged), row < 3 ? 0 : 3) << column << " " << row;
    }
  }
  EXPECT_EQ(kept_of(columns.substr(0, columns.size() - 1)), 0);  // the two forwards are read as one block
  EXPECT_EQ(kept_of(""), 0);
  EXPECT_EQ(kept_of(columns), 5);
}

TEST_F(ShardRowsTest, WhatIsNoFileOfRowsIsNotOpened) {
  EXPECT_EQ(error_of([&] { ShardRows::reopen(path_); }), "cannot read " + path_ + ": No such file or directory");
  write_text_file(path_, "text of someone else");
  EXPECT_EQ(ShardRows::reopen(path_), nullptr);
  EXPECT_EQ(read_text_file(path_), "text of someone else");
  EXPECT_EQ(error_of([&] { ShardRows(path_, head_of(columns_of(0, 1))); }), "cannot write " + path_ + ": File exists");
}

TEST_F(ShardRowsTest, RowsWhoseColumnsAreGoneAreAShardAlready) {
  write_rows();
  std::filesystem::remove(columns_path_);
  EXPECT_EQ(ShardRows::reopen(path_), nullptr);
}

TEST_F(ShardRowsTest, KeepsWholeForwardsOnly) {
  struct Case {
    int64_t asked, kept;
  };
  for (const auto& [asked, kept] : {Case{9, 5}, Case{5, 5}, Case{4, 3}, Case{3, 3}, Case{2, 0}, Case{0, 0}}) {
    write_rows();
    const auto rows = ShardRows::reopen(path_);
    rows->keep(asked);
    EXPECT_EQ(rows->num_rows(), kept) << asked;
    rows->append(columns_of(kept, 1), 0, 1);
    rows->write();
    expect_rows(*rows, kept + 1);
  }
}

TEST_F(ShardRowsTest, RemovesItsFiles) {
  write_rows();
  ShardRows::reopen(path_)->remove();
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_FALSE(std::filesystem::exists(columns_path_));
}

TEST_F(ShardRowsTest, AShardOfRowsThatAreGoneIsNotWritten) {
  for (const std::string& gone : {path_, columns_path_}) {
    write_rows();
    const auto rows = ShardRows::reopen(path_);
    std::filesystem::remove(gone);
    const std::string shard = folder_.file("shard");
    EXPECT_EQ(error_of([&] { rows->become_shard(shard); }),
              "cannot write " + gone + ": it was removed while the run goes on");
    EXPECT_FALSE(std::filesystem::exists(shard));
  }
}

TEST_F(ShardRowsTest, AShardThatDoesNotFitOnTheDiskDoesNotAppear) {
  write_rows();
  const auto rows = ShardRows::reopen(path_);
  const std::string shard = folder_.file("shard");
  {
    const FileSizeLimit limit(200);
    EXPECT_EQ(error_of([&] { rows->become_shard(shard); }), "cannot write " + shard + ": File too large");
  }
  EXPECT_FALSE(std::filesystem::exists(shard));
  expect_rows(*rows, 5);
}

TEST_F(ShardRowsTest, RowsThatDoNotFitOnTheDiskDoNotCount) {
  write_rows();
  {
    const auto rows = ShardRows::reopen(path_);
    rows->append(columns_of(5, 100), 0, 100);
    const FileSizeLimit limit(200);
    EXPECT_EQ(error_of([&] { rows->write(); }), "cannot write " + columns_path_ + ": File too large");
  }
  expect_rows(*ShardRows::reopen(path_), 5);
}

TEST_F(ShardRowsTest, AHeadThatIsNotMoetapsIsRefusedInOneLine) {
  for (const char* head : {"not JSON", "{}", R"({"series": 7})"}) {
    std::filesystem::remove(path_);
    FrameLog(path_).append(kShardBegun, head);
    EXPECT_EQ(error_of([&] { ShardRows::reopen(path_); }),
              path_ + ": its first frame is whole, but its content is not what moetap writes");
  }
}

// The frame is whole, but its content is not, as if another version had written it.
TEST_F(ShardRowsTest, FramesOfAnotherSizeAreRefused) {
  write_rows();
  const int64_t end_bytes = static_cast<int64_t>(std::filesystem::file_size(path_));
  for (const char* payload : {"1234567", "12345678123456781"}) {
    FrameLog(path_, end_bytes).append(kShardRows, payload);
    EXPECT_EQ(error_of([&] { ShardRows::reopen(path_); }), "a frame of a shard's rows has another size");
  }
}

TEST_F(ShardRowsTest, FramesThatNameMoreRowsThanFitCountForNothing) {
  write_rows();
  const int64_t end_bytes = static_cast<int64_t>(std::filesystem::file_size(path_));
  const uint64_t huge[2] = {uint64_t{1} << 62, 0};
  FrameLog(path_, end_bytes).append(kShardRows, {reinterpret_cast<const char*>(huge), sizeof(huge)});
  expect_rows(*ShardRows::reopen(path_), 5);
}

}  // namespace
}  // namespace moetap::plugin
