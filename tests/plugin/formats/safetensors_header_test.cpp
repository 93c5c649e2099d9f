#include "plugin/formats/safetensors_header.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

// How files with wrong headers are refused: safetensors_test.cpp.

/// The JSON text in the first bytes of a file.
std::string json_in(const std::string& bytes) {
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  EXPECT_EQ(bytes.size(), sizeof(length) + length);
  EXPECT_EQ(length % 8, 0u);  // else the data is not aligned
  return bytes.substr(sizeof(length));
}

TEST(SafetensorsHeaderTest, ReadsWhatItWrites) {
  SafetensorsHeader header;
  header.metadata = {{"", "empty key"}, {"hooks", R"({"0": "a\"b"})"}, {"name", "Größe\n"}};
  header.entries = {{"matrix", at::kDouble, {2, 3}, 0, 48},
                    {"number", at::kBFloat16, {}, 48, 50},
                    {"empty", at::kInt, {0, 5}, 50, 50},
                    {"\"Größe\"", at::kBool, {1}, 50, 51}};
  const SafetensorsHeader read = parse_safetensors_header(json_in(serialize_safetensors_header(header)), 51);
  EXPECT_EQ(read.metadata, header.metadata);
  ASSERT_EQ(read.entries.size(), header.entries.size());
  for (size_t i = 0; i < read.entries.size(); ++i) {
    EXPECT_EQ(read.entries[i].name, header.entries[i].name);
    EXPECT_EQ(read.entries[i].dtype, header.entries[i].dtype);
    EXPECT_EQ(read.entries[i].shape, header.entries[i].shape);
    EXPECT_EQ(read.entries[i].begin, header.entries[i].begin);
    EXPECT_EQ(read.entries[i].end, header.entries[i].end);
  }
}

TEST(SafetensorsHeaderTest, AHeaderMayBeEmpty) {
  const std::string json = json_in(serialize_safetensors_header({}));
  EXPECT_TRUE(parse_safetensors_header(json, 0).entries.empty());
  EXPECT_EQ(error_of([&] { parse_safetensors_header(json, 3); }),
            "the tensors end at 0, the file holds 3 bytes of data (trailing bytes)");
}

TEST(SafetensorsHeaderTest, EntriesComeByTheirPlace) {
  const auto header = parse_safetensors_header(
      R"({"b": {"dtype": "U8", "shape": [1], "data_offsets": [2, 3]},
          "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}})",
      3);
  ASSERT_EQ(header.entries.size(), 2u);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[1].name, "b");
}

TEST(SafetensorsHeaderTest, NamesTheDtypesOfTheFormat) {
  EXPECT_STREQ(safetensors_dtype_name(at::kBFloat16), "BF16");
  EXPECT_STREQ(safetensors_dtype_name(at::kLong), "I64");
  EXPECT_EQ(safetensors_dtype_name(at::kQInt8), nullptr);
  EXPECT_EQ(safetensors_dtype_name(at::ScalarType::Undefined), nullptr);
}

// The reader keeps no stack: a million brackets are refused at the first.
TEST(SafetensorsHeaderTest, DeepTextsAreRefused) {
  const std::string deep(1'000'000, '[');
  EXPECT_EQ(error_of([&] { parse_safetensors_header(deep, 0); }), "the header must be a JSON object, got a list");
  EXPECT_EQ(error_of([&] { parse_safetensors_header(R"({"a": {"shape": )" + deep, 0); }),
            "tensor \"a\": shape: got a list, expected a list of whole numbers");
}

}  // namespace
}  // namespace moetap::plugin
