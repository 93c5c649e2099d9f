#include "plugin/dump/attention_series.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

const AttentionSeries::Metadata kMetadata = {{"hooks", "{\"0\":\"attn\"}"}};
constexpr int64_t kMatricesOfShard = 3;

/// The matrix of a number, which its name and its values tell: 16 bytes. Names sort in another order than numbers.
AttentionMatrix matrix(int64_t number) {
  return {fmt::format("0/{}/0", number), at::full({2, 2}, number, at::kFloat)};
}

class AttentionSeriesTest : public ::testing::Test {
 protected:
  AttentionSeriesTest() { fs::create_directory(journal_); }

  AttentionSeries series(const std::string& name = "a.attention") const {
    return AttentionSeries({dump_, journal_, name, 2, kMatricesOfShard * 16});
  }

  static void append(AttentionSeries& series, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      series.settle();  // as for a forward
      series.append({matrix(i)}, kMetadata);
    }
  }

  /// Leaves what a process does that died after `end` matrices.
  void write_and_die(int64_t end) {
    AttentionSeries writer = series();
    append(writer, 0, end);
  }

  static std::vector<std::string> files(const std::string& folder) {
    std::vector<std::string> names;
    if (!fs::exists(folder)) return names;
    for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  /// All matrices of the finished shards; each must hold its number.
  std::vector<int64_t> numbers() const {
    std::vector<int64_t> all;
    int64_t first = 0;
    for (const std::string& name : files(dump_)) {
      const SafetensorsFile shard = read_safetensors(dump_ + "/" + name);
      EXPECT_EQ(shard.metadata.at("first_row"), std::to_string(first)) << name;
      EXPECT_EQ(shard.metadata.at("rank"), "2");
      EXPECT_EQ(shard.metadata.at("hooks"), kMetadata.at("hooks"));
      first += static_cast<int64_t>(shard.tensors.size());
      for (const auto& [tensor, values] : shard.tensors) {
        const auto number = values[0][0].item<int64_t>();
        EXPECT_EQ(tensor, matrix(number).name);
        EXPECT_TRUE(at::equal(values, matrix(number).probabilities)) << tensor;
        all.push_back(number);
      }
    }
    std::sort(all.begin(), all.end());
    return all;
  }

  static std::vector<int64_t> first(int64_t count) {
    std::vector<int64_t> numbers;
    for (int64_t i = 0; i < count; ++i) numbers.push_back(i);
    return numbers;
  }

  using Files = std::vector<std::string>;
  TemporaryFolder folder_;
  const std::string dump_ = folder_.file("dump"), journal_ = folder_.file("journal");
};

TEST_F(AttentionSeriesTest, FullShardsAreWrittenOnlyBeforeTheNextForward) {
  AttentionSeries writer = series();
  writer.append({matrix(0), matrix(1), matrix(2), matrix(3), matrix(4)}, kMetadata);
  EXPECT_EQ(writer.num_matrices(), 5);
  EXPECT_EQ(files(dump_), Files{}) << "the journal does not hold the forward yet";
  writer.settle();
  EXPECT_EQ(files(dump_), (Files{"a.attention-000000.safetensors"}));
  EXPECT_EQ(files(journal_), (Files{"a.attention-000001.matrices"}));
  writer.finish();
  EXPECT_EQ(files(dump_), (Files{"a.attention-000000.safetensors", "a.attention-000001.safetensors"}));
  EXPECT_EQ(files(journal_), Files{});
  EXPECT_EQ(numbers(), first(5));
}

TEST_F(AttentionSeriesTest, AMatrixThatIsLargerThanAShardHasItsOwn) {
  AttentionSeries writer = series();
  const at::Tensor large = at::rand({20, 20});
  writer.append({{"0/1/0", large}, {"0/2/0", large}, {"0/3/0", at::ones({1, 3})}}, kMetadata);
  writer.finish();
  ASSERT_EQ(files(dump_).size(), 3u);
  EXPECT_TRUE(at::equal(read_safetensors(dump_ + "/a.attention-000001.safetensors").tensors.at("0/2/0"), large));
}

TEST_F(AttentionSeriesTest, ANameThatIsUsedAgainBeginsAShard) {
  AttentionSeries writer = series();
  const auto constant = [](float value) { return at::full({1, 1}, value); };
  writer.append({{"0/7/0", constant(1)}, {"1/7/0", constant(2)}}, kMetadata);
  writer.append({{"0/7/0", constant(3)}}, kMetadata);  // the sample runs once more
  writer.finish();
  ASSERT_EQ(files(dump_).size(), 2u);
  const auto before = read_safetensors(dump_ + "/a.attention-000000.safetensors").tensors;
  const auto after = read_safetensors(dump_ + "/a.attention-000001.safetensors").tensors;
  EXPECT_EQ(before.at("0/7/0").item<float>(), 1);
  EXPECT_EQ(before.at("1/7/0").item<float>(), 2);
  EXPECT_EQ(after.at("0/7/0").item<float>(), 3);
  EXPECT_EQ(after.size(), 1u);
}

TEST_F(AttentionSeriesTest, OtherMetadataBeginsAShard) {
  AttentionSeries writer = series();
  writer.append({matrix(0)}, kMetadata);
  writer.append({matrix(1)}, {{"hooks", "{}"}});
  writer.finish();
  EXPECT_EQ(read_safetensors(dump_ + "/a.attention-000000.safetensors").metadata.at("hooks"), kMetadata.at("hooks"));
  EXPECT_EQ(read_safetensors(dump_ + "/a.attention-000001.safetensors").metadata.at("hooks"), "{}");
}

TEST_F(AttentionSeriesTest, AKilledSeriesIsContinuedAsIfNothingHadHappened) {
  for (int64_t killed = 0; killed <= 8; ++killed) {
    for (int64_t journaled = 0; journaled <= killed; ++journaled) {
      fs::remove_all(dump_);
      write_and_die(killed);
      AttentionSeries again = series();
      EXPECT_EQ(again.restore(), killed);
      EXPECT_EQ(again.cut(journaled), 0);
      EXPECT_EQ(again.num_matrices(), journaled);
      append(again, journaled, 10);
      again.finish();
      ASSERT_EQ(numbers(), first(10)) << killed << " written, " << journaled << " in the journal";
      ASSERT_EQ(files(journal_), Files{});
    }
  }
}

TEST_F(AttentionSeriesTest, AShardAndItsFramesMayBothBeThere) {
  write_and_die(5);
  const std::string shard = dump_ + "/a.attention-000000.safetensors";
  const std::string frames = journal_ + "/a.attention-000000.matrices";
  {
    // Killed after the shard was written and before its frames were removed.
    const TemporaryFolder other;
    AttentionSeries copy({other.file("dump"), journal_, "a.attention", 2, kMatricesOfShard * 16});
    fs::rename(journal_ + "/a.attention-000001.matrices", folder_.file("kept"));
    append(copy, 0, 3);
    ASSERT_TRUE(fs::exists(frames));
    fs::rename(folder_.file("kept"), journal_ + "/a.attention-000001.matrices");
  }
  ASSERT_TRUE(fs::exists(shard));
  {
    AttentionSeries again = series();
    EXPECT_EQ(again.restore(), 5);
    EXPECT_EQ(again.cut(2), 0);  // the journal lost the third
    EXPECT_EQ(files(dump_), Files{}) << "the shard would hold more than the journal";
    again.append({matrix(2)}, kMetadata);
  }
  AttentionSeries last = series();  // killed once more
  EXPECT_EQ(last.restore(), 3);
  EXPECT_EQ(last.cut(3), 0);
  last.finish();
  EXPECT_EQ(numbers(), first(3));
}

TEST_F(AttentionSeriesTest, FramesThatAreShorterThanTheirShardGiveWay) {
  AttentionSeries writer = series();
  append(writer, 0, 3);
  const std::string frames = journal_ + "/a.attention-000000.matrices";
  const std::string whole = read_text_file(frames);
  writer.finish();
  write_text_file(frames, whole.substr(0, whole.size() - 5));
  AttentionSeries again = series();
  EXPECT_EQ(again.restore(), 3);
  EXPECT_FALSE(fs::exists(frames));
  EXPECT_EQ(again.cut(3), 0);
  again.finish();
  EXPECT_EQ(numbers(), first(3));
}

TEST_F(AttentionSeriesTest, WhatALostFileHeldIsMissing) {
  write_and_die(8);
  fs::remove(dump_ + "/a.attention-000001.safetensors");
  AttentionSeries again = series();
  EXPECT_EQ(again.restore(), 3) << "up to the gap";
  EXPECT_EQ(again.cut(8), 3);
  EXPECT_EQ(again.num_matrices(), 8);
  append(again, 8, 9);
  again.finish();
  EXPECT_EQ(files(dump_), (Files{"a.attention-000000.safetensors", "a.attention-000002.safetensors"}));
  EXPECT_EQ(read_safetensors(dump_ + "/a.attention-000002.safetensors").metadata.at("first_row"), "6");
}

TEST_F(AttentionSeriesTest, OtherFilesAreLeftAlone) {
  fs::create_directory(dump_);
  const Files foreign = {"a-000000.safetensors", "a.attention-0.safetensors", "a.attention-000000.txt",
                         "a.attention.safetensors", "b.attention-000000.safetensors"};
  for (const std::string& name : foreign) write_text_file(dump_ + "/" + name, "x");
  EXPECT_EQ(AttentionSeries::names_in(dump_, journal_), (std::set<std::string>{"b.attention"}));
  AttentionSeries again = series();
  EXPECT_EQ(again.restore(), 0);
  EXPECT_EQ(again.cut(0), 0);
  EXPECT_EQ(files(dump_), foreign);
  write_and_die(1);
  EXPECT_EQ(AttentionSeries::names_in(dump_, journal_), (std::set<std::string>{"a.attention", "b.attention"}));
}

TEST_F(AttentionSeriesTest, ARunDirectoryThatWasRemovedIsNotMadeAgain) {
  AttentionSeries writer = series();
  writer.append({matrix(0)}, kMetadata);
  fs::remove_all(journal_);
  EXPECT_NE(error_of([&] { writer.finish(); }), "");
  EXPECT_FALSE(fs::exists(dump_));
}

}  // namespace
}  // namespace moetap::plugin
