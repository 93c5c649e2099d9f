#include "plugin/dump/component_reader.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "plugin/formats/safetensors.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

struct Rows {
  std::vector<int64_t> sample, position, forward;
  std::vector<int64_t> call = {};
};

// A shard with one layer whose first id is `first_id` + row.
void write_shard(const std::string& path, const std::string& layer, int64_t first_row, const Rows& rows,
                 int64_t first_id, bool with_forward = true) {
  const auto n = static_cast<int64_t>(rows.sample.size());
  SafetensorsFile file;
  file.metadata = {{"schema_version", "1"}, {"rank", "0"}, {"first_row", std::to_string(first_row)}};
  file.tensors["sample"] = at::tensor(rows.sample);
  file.tensors["position"] = at::tensor(rows.position).to(at::kInt);
  file.tensors["token_id"] = at::arange(n, at::kInt);
  file.tensors["phase"] = at::zeros({n}, at::kByte);
  if (with_forward) file.tensors["forward"] = at::tensor(rows.forward);
  if (!rows.call.empty()) file.tensors["call"] = at::tensor(rows.call).to(at::kInt);
  file.tensors[layer + ".selected"] = (at::arange(n, at::kShort) + first_id).unsqueeze(1).contiguous();
  write_safetensors(path, file);
}

ComponentReader open(const TemporaryFolder& folder) {
  return ComponentReader({"language_model", {{0, folder.path()}}, folder.path(), [] {}});
}

std::vector<int32_t> ids_of(const ComponentReader& reader, const std::string& layer) {
  std::vector<int32_t> ids(static_cast<size_t>(reader.num_tokens()));
  reader.read_ids(layer, 0, reader.num_tokens(), 1, ids.data());
  return ids;
}

std::vector<int64_t> tokens_of(const ComponentReader& reader, const std::string& layer) {
  ComponentReader::Rows rows;
  reader.read_row_tokens(layer, 0, reader.num_rows(layer), rows);
  return rows.token;
}

TEST(ComponentReader, WhereLayersShareRowsATokenIsARow) {
  const TemporaryFolder folder;
  write_shard(folder.file("language_model-000000.safetensors"), "0", 0, {{0, 0}, {0, 1}, {0, 0}}, 0, false);
  write_shard(folder.file("language_model-000001.safetensors"), "0", 2, {{1}, {0}, {1}}, 5, false);
  const ComponentReader reader = open(folder);
  EXPECT_EQ(reader.num_tokens(), 3);
  EXPECT_EQ(tokens_of(reader, "0"), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(ids_of(reader, "0"), (std::vector<int32_t>{0, 1, 5}));
  std::vector<TokenLabel> labels(2);
  reader.read_labels(1, 2, labels.data());
  EXPECT_EQ(labels[0].forward, -1);  // a dump of an earlier version
  EXPECT_EQ(labels[1].sample, 1);
}

TEST(ComponentReader, RowsOfALayerApartAreTheTokensThatAgreeInForwardSampleAndPosition) {
  const TemporaryFolder folder;
  const Rows shared{{0, 0, 1, 0}, {0, 1, 0, 0}, {0, 0, 0, 1}};
  write_shard(folder.file("language_model-000000.safetensors"), "0", 0, shared, 10);
  // Position 0 of sample 0 in forward 1 is another token than in forward 0.
  write_shard(folder.file("language_model.1-000000.safetensors"), "1", 0, {{1, 0, 0}, {0, 0, 0}, {0, 0, 1}}, 20);
  const ComponentReader reader = open(folder);
  EXPECT_EQ(tokens_of(reader, "1"), (std::vector<int64_t>{2, 0, 3}));
  EXPECT_EQ(ids_of(reader, "1"), (std::vector<int32_t>{21, -1, 20, 22}));
  EXPECT_EQ(ids_of(reader, "0"), (std::vector<int32_t>{10, 11, 12, 13}));
}

TEST(ComponentReader, CallsOfALoopRepeatTheirTokens) {
  const TemporaryFolder folder;
  const Rows loop{{0, 0, 0, 0, 0, 0}, {0, 1, 0, 1, 0, 0}, {0, 0, 0, 0, 1, 1}, {0, 0, 1, 1, 0, 1}};
  write_shard(folder.file("language_model-000000.safetensors"), "0", 0, loop, 0);
  const ComponentReader reader = open(folder);
  EXPECT_EQ(reader.num_tokens(), 3);
  EXPECT_EQ(tokens_of(reader, "0"), (std::vector<int64_t>{0, 1, 0, 1, 2, 2}));
  EXPECT_EQ(ids_of(reader, "0"), (std::vector<int32_t>{0, 1, 4}));  // of the first call
}

TEST(ComponentReader, UnknownSamplesAreTheSameTokensOnlyWhereThereAreEquallyMany) {
  const TemporaryFolder folder;
  const Rows three{{-1, -1, -1}, {0, 1, 2}, {0, 0, 0}};
  write_shard(folder.file("language_model-000000.safetensors"), "0", 0, three, 0);
  write_shard(folder.file("language_model.1-000000.safetensors"), "1", 0, three, 10);
  write_shard(folder.file("language_model.2-000000.safetensors"), "2", 0, {{-1, -1}, {0, 1}, {0, 0}}, 20);
  const ComponentReader reader = open(folder);
  EXPECT_EQ(reader.num_tokens(), 5);
  EXPECT_EQ(tokens_of(reader, "0"), tokens_of(reader, "1"));
  for (const int64_t token : tokens_of(reader, "2")) {
    EXPECT_EQ(ids_of(reader, "0")[static_cast<size_t>(token)], -1) << token;
  }
}

TEST(ComponentReader, WithoutForwardsLayersWithOtherRowsAreRefused) {
  const TemporaryFolder folder;
  write_shard(folder.file("language_model-000000.safetensors"), "0", 0, {{0}, {0}, {0}}, 0, false);
  write_shard(folder.file("language_model.1-000000.safetensors"), "1", 0, {{0}, {0}, {0}}, 0, false);
  try {
    open(folder);
    FAIL() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("no column forward"), std::string::npos) << error.what();
  }
}

TEST(ComponentReader, ShardsThatOverlapOrLeaveGapsAreNamed) {
  const TemporaryFolder folder;
  write_shard(folder.file("language_model-000000.safetensors"), "0", 0, {{0, 0}, {0, 1}, {0, 0}}, 0);
  write_shard(folder.file("language_model-000001.safetensors"), "0", 1, {{0}, {2}, {0}}, 50);
  write_shard(folder.file("language_model-000002.safetensors"), "0", 4, {{0}, {4}, {0}}, 90);
  const ComponentReader reader = open(folder);
  ASSERT_EQ(reader.damage().size(), 2U);
  EXPECT_NE(reader.damage()[0].find("language_model-000001.safetensors: is left out"), std::string::npos);
  EXPECT_NE(reader.damage()[1].find("rows 2 to 3"), std::string::npos);
  EXPECT_EQ(ids_of(reader, "0"), (std::vector<int32_t>{0, 1, -1, -1, 90}));
  EXPECT_EQ(reader.num_rows("0"), 3);
}

}  // namespace
}  // namespace moetap::plugin
