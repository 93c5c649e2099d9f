#include "plugin/dump/shard_head.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "plugin/dump/dump_keys.h"
#include "plugin/formats/json_text.h"

namespace moetap::plugin {
namespace {

void set_row_bytes(SafetensorsEntry& entry) {
  const int64_t elements = std::accumulate(entry.shape.begin(), entry.shape.end(), int64_t{1}, std::multiplies<>());
  entry.end = elements * static_cast<int64_t>(c10::elementSize(entry.dtype));
}

}  // namespace

int64_t ShardHead::row_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsEntry& column : columns) bytes += column.end;
  return bytes;
}

SafetensorsEntry column_of(const DumpColumn& column) {
  SafetensorsEntry entry;
  entry.name = column.name;
  entry.dtype = column.rows.scalar_type();
  entry.shape = column.rows.sizes().slice(1).vec();
  set_row_bytes(entry);
  return entry;
}

std::string to_text(const ShardHead& head) {
  nlohmann::ordered_json json = {{keys::kSeries.name, head.series},
                                 {keys::kShard.name, head.number},
                                 {keys::kFirstRow.name, head.first_row},
                                 {keys::kRank.name, head.rank},
                                 {keys::kMaxShardBytes.name, head.max_shard_bytes},
                                 {keys::kHooks.name, head.hooks},
                                 {keys::kColumns.name, nlohmann::ordered_json::array()}};
  for (const SafetensorsEntry& column : head.columns) {
    json[keys::kColumns.name].push_back({{keys::kName.name, column.name},
                                         {keys::kDtype.name, static_cast<int>(column.dtype)},
                                         {keys::kShape.name, column.shape}});
  }
  if (!head.attention_columns.empty()) json[keys::kAttentionColumns.name] = head.attention_columns;
  return ascii_text(json);
}

ShardHead shard_head_from_text(const std::string& text) {
  const auto json = nlohmann::json::parse(text);
  ShardHead head;
  head.series = json.at(keys::kSeries.name).get<std::string>();
  head.number = json.at(keys::kShard.name).get<int64_t>();
  head.first_row = json.at(keys::kFirstRow.name).get<int64_t>();
  head.rank = json.at(keys::kRank.name).get<int64_t>();
  head.max_shard_bytes = json.at(keys::kMaxShardBytes.name).get<int64_t>();
  head.hooks = json.at(keys::kHooks.name).get<std::map<std::string, std::string>>();
  head.attention_columns = json.value(keys::kAttentionColumns.name, AttentionColumns());
  for (const auto& column : json.at(keys::kColumns.name)) {
    SafetensorsEntry entry;
    entry.name = column.at(keys::kName.name).get<std::string>();
    entry.dtype = static_cast<at::ScalarType>(column.at(keys::kDtype.name).get<int>());
    entry.shape = column.at(keys::kShape.name).get<std::vector<int64_t>>();
    set_row_bytes(entry);
    head.columns.push_back(std::move(entry));
  }
  return head;
}

SafetensorsHeader shard_header(const ShardHead& head, int64_t num_rows) {
  SafetensorsHeader header;
  header.metadata = {{keys::kSchemaVersion.name, "1"},
                     {keys::kRank.name, std::to_string(head.rank)},
                     {keys::kFirstRow.name, std::to_string(head.first_row)},
                     {keys::kHooks.name, compact_text(nlohmann::json(head.hooks))}};
  if (!head.attention_columns.empty()) {
    header.metadata[keys::kAttentionColumns.name] = compact_text(nlohmann::json(head.attention_columns));
  }
  header.entries = head.columns;
  // The largest elements first: every column is then aligned to its element size.
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const auto& a, const auto& b) { return c10::elementSize(a.dtype) > c10::elementSize(b.dtype); });
  int64_t end = 0;
  for (SafetensorsEntry& entry : header.entries) {
    const int64_t row_bytes = entry.end;
    entry.begin = end;
    entry.end = end += num_rows * row_bytes;
    entry.shape.insert(entry.shape.begin(), num_rows);
  }
  return header;
}

ShardPlaces full_shard(const ShardHead& head) {
  const int64_t row_bytes = head.row_bytes();
  // This header's numbers are as large as they can be; a header with fewer dump rows is not longer.
  const auto longest = static_cast<int64_t>(
      serialize_safetensors_header(shard_header(head, std::max<int64_t>(1, head.max_shard_bytes / row_bytes))).size());
  ShardPlaces places;
  places.num_rows = std::max<int64_t>(1, (head.max_shard_bytes - longest) / row_bytes);
  const SafetensorsHeader header = shard_header(head, places.num_rows);
  places.header = serialize_safetensors_header(header);
  for (const SafetensorsEntry& column : head.columns) {
    const auto placed = std::find_if(header.entries.begin(), header.entries.end(),
                                     [&](const SafetensorsEntry& entry) { return entry.name == column.name; });
    places.begin_bytes.push_back(static_cast<int64_t>(places.header.size()) + placed->begin);
  }
  return places;
}

}  // namespace moetap::plugin
