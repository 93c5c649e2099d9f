#include "plugin/dump/dump_forward_reader.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "plugin/dump/dump_writer.h"
#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/damaged_file.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kForwards = 6;

// Two layers that share their rows and one with rows of its own, in shards so small that forwards lie across them.
class DumpForwardReaderTest : public ::testing::Test {
 protected:
  DumpForwardReaderTest() {
    fs::create_directories(folder_.file("journal"));
    for (int64_t hook = 0; hook < 3; ++hook) layers_.place(*model_, hook, 4);
    for (size_t place = 0; place < 3; ++place) {
      places_[{"language_model", std::to_string(place)}] = {place, static_cast<int64_t>(place)};
    }
    DumpWriter dump({Dump::kFull, DumpWeights::kF32}, {dump_, folder_.file("journal"), 0, 1 << 11});
    std::map<std::string, int64_t> rows;
    for (int64_t number = 0; number < kForwards; ++number) {
      DumpWriter::ForwardRows made = dump.prepare(record(number), {layers_, layers_});
      for (const auto& [series, end] : made.num_rows) {
        extents_[static_cast<size_t>(number)].push_back({series, rows[series], end - rows[series]});
        rows[series] = end;
      }
      dump.add(std::move(made));
    }
    dump.finish();
  }

  ForwardRecord record(int64_t number) const {
    const at::Tensor valid = at::tensor({1, 1, 0, 1, 1, 1}).reshape({2, 3}).to(at::kBool);
    ForwardRecord record = forward_of(model_, {2 * number, 2 * number + 1});
    record.index = number;
    record.generation = number % 2 == 1;
    record.routers = {observe_router({.hook = 0}, seeded_logits(number, {2, 3, 4})),
                      observe_router({.hook = 1}, seeded_logits(number + 50, {2, 3, 4})),
                      observe_router({.hook = 2}, seeded_logits(number + 90, {2, 3, 4}), valid)};
    record.routers[0].input = seeded_logits(number + 130, {6, 5}).to(at::kHalf);
    return record;
  }

  void expect_forward(const DumpedForward& read, int64_t number, int64_t offset) const {
    const ForwardRecord wrote = record(number);
    EXPECT_EQ(read.index, number);
    EXPECT_EQ(read.generation, wrote.generation);
    ASSERT_EQ(read.layers.size(), 3u);
    for (size_t layer = 0; layer < 3; ++layer) {
      const RouterRecord& router = wrote.routers[layer];
      const LayerRows& rows = read.layers[layer];
      EXPECT_EQ(rows.layer, layer);
      EXPECT_TRUE(at::equal(rows.row, router.row + 2 * number + offset));
      EXPECT_TRUE(at::equal(rows.position, router.position));
      EXPECT_TRUE(at::equal(rows.token_id, router.token_id));
      EXPECT_TRUE(at::equal(rows.selected.to(at::kLong), router.selected));
      EXPECT_TRUE(at::equal(rows.weights, router.weights));
      EXPECT_TRUE(at::equal(rows.logits, router.logits));
      EXPECT_TRUE(at::equal(rows.scores, router.scores));
      ASSERT_EQ(rows.input.defined(), layer == 0);
      if (layer == 0) {
        EXPECT_TRUE(at::equal(rows.input, router.input));
      }
    }
  }

  std::string shard(const std::string& series, int64_t number) const {
    return dump_ + "/" + series + "-00000" + std::to_string(number) + ".safetensors";
  }

  /// What reading every forward says: damage, or an error; "" where all was read.
  std::string complaint() const {
    std::vector<std::string> damage;
    const std::string error = error_of([&] {
      DumpForwardReader reader(dump_, 0, places_, damage);
      for (int64_t number = 0; number < kForwards; ++number)
        reader.read(number, extents_[static_cast<size_t>(number)], 0);
    });
    return damage.empty() ? error : damage.front();
  }

  /// Changes a finished shard.
  void change(const std::string& path, const std::function<void(SafetensorsFile&)>& how) const {
    SafetensorsFile file = read_safetensors(path);
    how(file);
    write_safetensors(path, file);
  }

  TemporaryFolder folder_;
  const std::string dump_ = folder_.file("dump");
  std::shared_ptr<ModelDescription> model_ =
      describe({{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
  LayerTable layers_;
  LayerPlaces places_;
  std::vector<DumpForwardReader::Extent> extents_[kForwards];
};

TEST_F(DumpForwardReaderTest, ReadsForwardsInAnyOrder) {
  EXPECT_GT(std::distance(fs::directory_iterator(dump_), {}), 3);  // shards of both series
  std::vector<int64_t> order(kForwards);
  for (int64_t i = 0; i < kForwards; ++i) order[static_cast<size_t>(i)] = i;
  std::mt19937 random(3);
  for (const int64_t read_ahead : {int64_t{0}, int64_t{1} << 20}) {
    std::vector<std::string> damage;
    DumpForwardReader reader(dump_, 0, places_, damage);
    reader.set_read_ahead_bytes(read_ahead);
    EXPECT_EQ(reader.num_series(), 2);
    EXPECT_EQ(reader.num_rows("language_model"), 6 * kForwards);
    EXPECT_EQ(reader.num_rows("language_model.2"), 5 * kForwards);
    EXPECT_EQ(reader.num_rows("vision_tower"), 0);
    for (int trial = 0; trial < 4; ++trial) {
      for (const int64_t number : order) {
        expect_forward(reader.read(number, extents_[static_cast<size_t>(number)], 100 * trial), number, 100 * trial);
      }
      std::shuffle(order.begin(), order.end(), random);
    }
    EXPECT_EQ(damage, std::vector<std::string>{});
  }
}

TEST_F(DumpForwardReaderTest, LeavesOutWhatLiesInNoWholeShard) {
  const std::string path = shard("language_model.2", 0);
  fs::resize_file(path, fs::file_size(path) - 1);
  std::vector<std::string> damage;
  DumpForwardReader reader(dump_, 0, places_, damage);
  ASSERT_FALSE(damage.empty());
  EXPECT_NE(damage[0].find(path), std::string::npos) << damage[0];
  EXPECT_EQ(reader.read(0, extents_[0], 0).layers.size(), 2u);
}

TEST_F(DumpForwardReaderTest, RefusesTheDumpOfAnotherRun) {
  std::vector<std::string> damage;
  DumpForwardReader reader(dump_, 0, places_, damage);
  const std::string error = error_of([&] { reader.read(1, extents_[0], 0); });
  EXPECT_NE(error.find("is not of forward 1"), std::string::npos) << error;
}

TEST_F(DumpForwardReaderTest, RefusesAFolderOfAnotherRank) {
  std::vector<std::string> damage;
  const DumpForwardReader reader(dump_, 1, places_, damage);
  ASSERT_FALSE(damage.empty());
  EXPECT_NE(damage[0].find("it is of rank 0, the folder of rank 1"), std::string::npos) << damage[0];
}

struct Harm {
  const char* name;
  const char* says;
  std::function<void(SafetensorsFile&)> how;
};

TEST_F(DumpForwardReaderTest, RefusesColumnsThatNoMoetapWrites) {
  const auto as = [](const char* column, at::ScalarType dtype) {
    return [=](SafetensorsFile& file) { file.tensors.at(column) = file.tensors.at(column).to(dtype); };
  };
  const std::string path = shard("language_model", 0), whole = read_text_file(path);
  for (const Harm& harm : std::vector<Harm>{
           {"forward", "column forward must be I64", as("forward", at::kInt)},
           {"sample", "column sample must be I64", as("sample", at::kInt)},
           {"phase", "column phase must be U8", as("phase", at::kLong)},
           {"ids", "column 1.selected must be I16", as("1.selected", at::kFloat)},
           {"shape", "column 1.weights must be F32 of 2 dimensions, got F32 of 1",
            [](SafetensorsFile& file) { file.tensors.at("1.weights") = file.tensors.at("1.weights").select(1, 0); }},
           {"rows", "column 0.input has 1 rows",
            [](SafetensorsFile& file) { file.tensors.at("0.input") = file.tensors.at("0.input").narrow(0, 0, 1); }},
           {"missing", "lacks the column forward", [](SafetensorsFile& file) { file.tensors.erase("forward"); }},
           {"no sample", "no column sample", [](SafetensorsFile& file) { file.tensors.erase("sample"); }},
           {"layer", "holds layer 9",
            [](SafetensorsFile& file) { file.tensors["9.selected"] = file.tensors.at("0.selected"); }},
           {"names", "attention_columns are no JSON",
            [](SafetensorsFile& file) { file.metadata["attention_columns"] = "{"; }},
           {"first row", "first_row must be a number",
            [](SafetensorsFile& file) { file.metadata["first_row"] = "-4"; }},
           {"version", "schema_version", [](SafetensorsFile& file) { file.metadata["schema_version"] = "2"; }}}) {
    change(path, harm.how);
    const std::string said = complaint();
    EXPECT_NE(said.find(harm.says), std::string::npos) << harm.name << ": " << said;
    EXPECT_NE(said.find(path), std::string::npos) << harm.name << ": " << said;
    EXPECT_EQ(said.find('\n'), std::string::npos);
    write_text_file(path, whole);
  }
  EXPECT_EQ(complaint(), "");
}

// Whatever is wrong with a file, it is said in a line that names it, or its values are read.
TEST_F(DumpForwardReaderTest, NamesAnyDamage) {
  std::mt19937 random(5);
  int told = 0;
  for (const char* series : {"language_model", "language_model.2"}) {
    const std::string path = shard(series, 0), whole = read_text_file(path);
    for (int trial = 0; trial < 300; ++trial) {
      write_text_file(path, damaged(whole, 900, random));
      const std::string said = complaint();  // other errors than std::runtime_error pass through and fail the test
      if (said.empty()) continue;
      ++told;
      EXPECT_NE(said.find(dump_), std::string::npos) << said;
      EXPECT_EQ(said.find('\n'), std::string::npos) << said;
    }
    write_text_file(path, whole);
  }
  EXPECT_GT(told, 400);
  EXPECT_EQ(complaint(), "");
}

}  // namespace
}  // namespace moetap::plugin
