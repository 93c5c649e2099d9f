#include "plugin/dump/dump_series.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, std::string> kHooks = {{"0", "layers.0"}};
constexpr int64_t kRowsOfShard = 10;

/// One column that holds each row's number: 8 bytes a row.
std::vector<DumpColumn> rows_of(int64_t first, int64_t num_rows, const std::string& column = "sample") {
  return {{column, at::arange(first, first + num_rows, at::kLong)}};
}

class DumpSeriesTest : public ::testing::Test {
 protected:
  DumpSeriesTest() { fs::create_directory(journal_); }

  DumpSeries series(const std::string& name = "a") const {
    // The largest limit with which a shard holds kRowsOfShard rows.
    static const int64_t limit = [] {
      ShardHead head{"a", 0, 0, 0, kHooks, {column_of(rows_of(0, 1).front())}};
      head.max_shard_bytes = 1;
      while (full_shard(head).num_rows < kRowsOfShard) ++head.max_shard_bytes;
      return head.max_shard_bytes;
    }();
    return DumpSeries({dump_, journal_, name, 0, limit});
  }

  static void append(DumpSeries& writer, int64_t first, int64_t num_rows) {
    writer.append(rows_of(first, num_rows), kHooks);
    writer.write();
  }

  /// Does what a process leaves that died after `num_rows` rows: full shards are made, the rest is in the journal.
  void write_rows(int64_t num_rows) {
    DumpSeries writer = series();
    append(writer, 0, num_rows);
    writer.settle();
  }

  static std::vector<std::string> files(const std::string& folder) {
    std::vector<std::string> names;
    if (fs::exists(folder)) {
      for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  /// The rows of all shards; each must begin where the one before it ends.
  at::Tensor rows_in_shards() const {
    std::vector<at::Tensor> rows = {at::empty({0}, at::kLong)};
    int64_t first = 0;
    for (const std::string& name : files(dump_)) {
      const SafetensorsFile shard = read_safetensors(dump_ + "/" + name);
      EXPECT_EQ(shard.metadata.at("first_row"), std::to_string(first)) << name;
      rows.push_back(shard.tensors.at("sample"));
      first += rows.back().size(0);
    }
    return at::cat(rows);
  }

  void expect_rows(int64_t num_rows) const {
    EXPECT_TRUE(at::equal(rows_in_shards(), at::arange(num_rows, at::kLong))) << rows_in_shards();
  }

  TemporaryFolder folder_;
  const std::string dump_ = folder_.file("dump/rank0");
  const std::string journal_ = folder_.file("journal");
};

using Names = std::vector<std::string>;

TEST_F(DumpSeriesTest, FullShardsAreMadeWhenSettled) {
  DumpSeries writer = series();
  append(writer, 0, 4);
  writer.settle();
  EXPECT_EQ(files(dump_), Names{});
  append(writer, 4, 21);
  EXPECT_EQ(writer.num_rows(), 25);
  EXPECT_EQ(files(dump_), Names{});
  EXPECT_EQ(files(journal_), (Names{"a-000000.columns", "a-000000.rows", "a-000001.columns", "a-000001.rows",
                                    "a-000002.columns", "a-000002.rows"}));
  writer.sync();
  writer.settle();
  EXPECT_EQ(files(dump_), (Names{"a-000000.safetensors", "a-000001.safetensors"}));
  EXPECT_EQ(files(journal_), (Names{"a-000002.columns", "a-000002.rows"}));
  writer.finish();
  EXPECT_EQ(files(journal_), Names{});
  expect_rows(25);
}

TEST_F(DumpSeriesTest, NoRowsAreNoShard) {
  DumpSeries writer = series();
  append(writer, 0, 0);
  writer.finish();
  EXPECT_EQ(files(journal_), Names{});
  EXPECT_FALSE(fs::exists(dump_));
}

TEST_F(DumpSeriesTest, OtherColumnsBeginAShard) {
  DumpSeries writer = series();
  append(writer, 0, 2);
  writer.append(rows_of(2, 2), {{"0", "layers.0"}, {"1", "layers.1"}});
  writer.append(rows_of(4, 2, "row"), kHooks);
  writer.finish();
  EXPECT_EQ(files(dump_).size(), 3u);
  EXPECT_TRUE(at::equal(read_safetensors(dump_ + "/a-000002.safetensors").tensors.at("row"), at::arange(4, 6)));
}

TEST_F(DumpSeriesTest, RowsThatWereRemovedAreNoShard) {
  DumpSeries writer = series();
  append(writer, 0, 2);
  fs::remove_all(journal_);
  EXPECT_EQ(error_of([&] { writer.finish(); }),
            "cannot write " + journal_ + "/a-000000.rows: it was removed while the run goes on");
  EXPECT_FALSE(fs::exists(dump_));
}

TEST_F(DumpSeriesTest, AFileInPlaceOfTheFolderIsNamed) {
  DumpSeries writer = series();
  append(writer, 0, 2);
  write_text_file(folder_.file("dump"), "");
  const std::string error = error_of([&] { writer.finish(); });
  EXPECT_NE(error.find(dump_), std::string::npos) << error;
  fs::remove(folder_.file("dump"));
  writer.finish();  // the rows are still there
  expect_rows(2);
}

TEST_F(DumpSeriesTest, FindsTheSeriesOfItsFolders) {
  write_rows(12);
  fs::copy(dump_ + "/a-000000.safetensors", dump_ + "/b.1-000000.safetensors");
  for (const char* stranger : {"/-000000.rows", "/c.rows", "/c-x.rows", "/c-000000.txt", "/c--00001.rows", "/c-1.rows",
                               "/c-99999999999999999999.rows"}) {
    write_text_file(journal_ + stranger, "");
  }
  EXPECT_EQ(DumpSeries::names_in(dump_, journal_), (std::set<std::string>{"a", "b.1"}));
  EXPECT_EQ(DumpSeries::names_in(folder_.file("none"), folder_.file("none")), std::set<std::string>{});
}

TEST_F(DumpSeriesTest, GoesOnWhereAProcessDied) {
  write_rows(25);
  DumpSeries writer = series();
  EXPECT_EQ(writer.restore(), 25);
  EXPECT_EQ(writer.cut(25), 0);
  EXPECT_EQ(writer.num_rows(), 25);
  append(writer, 25, 7);
  writer.finish();
  expect_rows(32);
  EXPECT_EQ(files(journal_), Names{});
}

TEST_F(DumpSeriesTest, RowsThatDoNotCountAreRemovedAlsoFromShards) {
  for (const int64_t kept : {20, 13, 10, 3, 0}) {
    fs::remove_all(dump_);
    write_rows(25);
    DumpSeries writer = series();
    ASSERT_EQ(writer.restore(), 25);
    EXPECT_EQ(writer.cut(kept), 0) << kept;
    append(writer, kept, 4);
    writer.finish();
    expect_rows(kept + 4);
    EXPECT_EQ(files(journal_), Names{});
  }
}

TEST_F(DumpSeriesTest, RowsBehindAGapAreMissing) {
  write_rows(35);
  fs::remove(dump_ + "/a-000001.safetensors");
  DumpSeries writer = series();
  EXPECT_EQ(writer.restore(), 10);
  EXPECT_EQ(writer.cut(35), 10);
}

TEST_F(DumpSeriesTest, AShardWhoseRowsAreStillThereCountsOnce) {
  for (const bool with_columns : {false, true}) {  // renamed, and copied
    fs::remove_all(dump_);
    {
      DumpSeries writer = series();
      append(writer, 0, 10);
      fs::copy(journal_ + "/a-000000.rows", journal_ + "/saved");
      fs::copy(journal_ + "/a-000000.columns", journal_ + "/saved_columns");
      writer.settle();
      fs::rename(journal_ + "/saved", journal_ + "/a-000000.rows");
      if (with_columns) fs::rename(journal_ + "/saved_columns", journal_ + "/a-000000.columns");
      fs::remove(journal_ + "/saved_columns");
    }
    DumpSeries writer = series();
    EXPECT_EQ(writer.restore(), 10);
    EXPECT_EQ(writer.cut(10), 0);
    writer.finish();
    expect_rows(10);
    EXPECT_EQ(files(journal_), Names{});
  }
}

TEST_F(DumpSeriesTest, FilesThatAreDamagedCountForNothing) {
  write_rows(25);
  fs::resize_file(dump_ + "/a-000001.safetensors", 50);
  write_text_file(journal_ + "/a-000002.rows", "");
  DumpSeries writer = series();
  EXPECT_EQ(writer.restore(), 10);
  EXPECT_EQ(files(journal_), Names{});  // a .rows file without a whole head is removed
}

}  // namespace
}  // namespace moetap::plugin
