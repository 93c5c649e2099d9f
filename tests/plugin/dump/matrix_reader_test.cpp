#include "plugin/dump/matrix_reader.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/damaged_file.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSeries = "language_model.attention";

// Shards of three matrices each; matrix n is named after itself and has n + 1 queries.
class MatrixReaderTest : public ::testing::Test {
 protected:
  MatrixReaderTest() {
    fs::create_directories(dump_);
    for (int64_t number = 0; number < 3; ++number) write_shard(number, 3 * number);
  }

  static at::Tensor matrix(int64_t number) { return seeded_logits(number, {number + 1, 4}); }
  std::string path(int64_t number) const { return fmt::format("{}/{}-{:06}.safetensors", dump_, kSeries, number); }

  void write_shard(int64_t number, int64_t first) const {
    SafetensorsFile file;
    file.metadata = {{"schema_version", "1"}, {"rank", "0"}, {"first_row", std::to_string(first)}};
    for (int64_t i = first; i < first + 3; ++i) file.tensors[fmt::format("0/{:02}/0", i)] = matrix(i);
    write_safetensors(path(number), file);
  }

  std::string complaint() const {
    std::vector<std::string> damage;
    const std::string error = error_of([&] { MatrixReader(dump_, damage).read(kSeries, 0, 9); });
    return damage.empty() ? error : damage.front();
  }

  TemporaryFolder folder_;
  const std::string dump_ = folder_.file("dump");
};

TEST_F(MatrixReaderTest, ReadsAnyStretch) {
  std::vector<std::string> damage;
  MatrixReader reader(dump_, damage);
  EXPECT_EQ(reader.num_matrices(kSeries), 9);
  EXPECT_EQ(reader.num_matrices("vision_tower.attention"), 0);
  EXPECT_TRUE(reader.read("vision_tower.attention", 0, 4).empty());
  for (const auto& [begin, number] : {std::pair<int64_t, int64_t>{0, 9}, {7, 2}, {2, 2}, {4, 0}, {8, 5}}) {
    const std::vector<AttentionMatrix> read = reader.read(kSeries, begin, number);
    ASSERT_EQ(read.size(), static_cast<size_t>(std::min<int64_t>(number, 9 - begin)));
    // The format orders equal elements by name within a shard, so names tell which matrix one is.
    for (const AttentionMatrix& one : read) {
      const int64_t which = std::stoll(one.name.substr(2, 2));
      EXPECT_GE(which, begin / 3 * 3);
      EXPECT_TRUE(at::equal(one.probabilities, matrix(which))) << one.name;
    }
  }
  EXPECT_EQ(damage, std::vector<std::string>{});
}

TEST_F(MatrixReaderTest, LeavesOutAShardThatIsNotWhole) {
  fs::resize_file(path(1), fs::file_size(path(1)) - 4);
  std::vector<std::string> damage;
  MatrixReader reader(dump_, damage);
  ASSERT_EQ(damage.size(), 2u);
  EXPECT_NE(damage[0].find(path(1) + ": is damaged"), std::string::npos) << damage[0];
  EXPECT_NE(damage[1].find("begins at matrix 6, the shards before it end at 3"), std::string::npos) << damage[1];
  EXPECT_EQ(reader.read(kSeries, 0, 9).size(), 6u);
  EXPECT_EQ(reader.read(kSeries, 3, 3).size(), 0u);
}

TEST_F(MatrixReaderTest, RefusesWhatIsNoMatrix) {
  const std::string whole = read_text_file(path(0));
  const auto change = [&](const std::function<void(SafetensorsFile&)>& how) {
    SafetensorsFile file = read_safetensors(path(0));
    how(file);
    write_safetensors(path(0), file);
    const std::string said = complaint();
    write_text_file(path(0), whole);
    EXPECT_NE(said.find(path(0)), std::string::npos) << said;
    return said;
  };
  EXPECT_NE(change([](SafetensorsFile& file) {
              file.tensors["0/00/0"] = at::zeros({2, 4}, at::kHalf);
            }).find("0/00/0 must be float32 [queries, keys]"),
            std::string::npos);
  EXPECT_NE(change([](SafetensorsFile& file) { file.tensors["0/00/0"] = at::zeros({4}); }).find("must be float32"),
            std::string::npos);
  EXPECT_NE(change([](SafetensorsFile& file) { file.metadata.erase("first_row"); }).find("do not say its first_row"),
            std::string::npos);
  EXPECT_NE(change([](SafetensorsFile& file) { file.metadata["first_row"] = "-1"; }).find("do not say its first_row"),
            std::string::npos);
}

TEST_F(MatrixReaderTest, NamesAnyDamage) {
  std::mt19937 random(11);
  const std::string whole = read_text_file(path(0));
  int told = 0;
  for (int trial = 0; trial < 500; ++trial) {
    write_text_file(path(0), damaged(whole, 300, random));
    const std::string said = complaint();
    if (said.empty()) continue;
    ++told;
    EXPECT_NE(said.find(dump_), std::string::npos) << said;
    EXPECT_EQ(said.find('\n'), std::string::npos) << said;
  }
  EXPECT_GT(told, 300);
}

}  // namespace
}  // namespace moetap::plugin
