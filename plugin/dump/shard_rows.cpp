#include "plugin/dump/shard_rows.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "plugin/dump/dump_keys.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/json_text.h"

namespace moetap::plugin {
namespace {

constexpr size_t kColumnBufferBytes = size_t{64} << 10;

// Buffers the pieces of one column and writes them, one after the other, to the column's place in the shard.
class ColumnOutput {
 public:
  ColumnOutput(AtomicFile& file, int64_t offset_bytes) : file_(file), offset_bytes_(offset_bytes) {}

  void write(std::string_view bytes) {
    buffer_.append(bytes);
    if (buffer_.size() >= kColumnBufferBytes) flush();
  }

  void flush() {
    file_.write_at(offset_bytes_, buffer_);
    offset_bytes_ += static_cast<int64_t>(buffer_.size());
    buffer_.clear();
  }

 private:
  AtomicFile& file_;
  int64_t offset_bytes_;
  std::string buffer_;
};

bool same_column(const SafetensorsEntry& a, const SafetensorsEntry& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape;
}

void set_row_bytes(SafetensorsEntry& entry) {
  const int64_t elements = std::accumulate(entry.shape.begin(), entry.shape.end(), int64_t{1}, std::multiplies<>());
  entry.end = elements * static_cast<int64_t>(c10::elementSize(entry.dtype));
}

std::string to_text(const ShardHead& head) {
  nlohmann::ordered_json json = {
      {keys::kSeries.name, head.series},      {keys::kShard.name, head.number},
      {keys::kFirstRow.name, head.first_row}, {keys::kRank.name, head.rank},
      {keys::kHooks.name, head.hooks},        {keys::kColumns.name, nlohmann::ordered_json::array()}};
  for (const SafetensorsEntry& column : head.columns) {
    json[keys::kColumns.name].push_back({{keys::kName.name, column.name},
                                         {keys::kDtype.name, static_cast<int>(column.dtype)},
                                         {keys::kShape.name, column.shape}});
  }
  if (!head.attention_columns.empty()) json[keys::kAttentionColumns.name] = head.attention_columns;
  return ascii_text(json);
}

ShardHead head_from(const nlohmann::json& json) {
  ShardHead head;
  head.series = json.at(keys::kSeries.name).get<std::string>();
  head.number = json.at(keys::kShard.name).get<int64_t>();
  head.first_row = json.at(keys::kFirstRow.name).get<int64_t>();
  head.rank = json.at(keys::kRank.name).get<int64_t>();
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

int64_t rows_in(const Frame& frame) {
  uint64_t num_rows = 0;
  if (frame.payload.size() < sizeof(num_rows)) throw std::runtime_error("a frame of a shard's rows ends early");
  std::memcpy(&num_rows, frame.payload.data(), sizeof(num_rows));
  return static_cast<int64_t>(num_rows);
}

}  // namespace

SafetensorsEntry column_of(const DumpColumn& column) {
  SafetensorsEntry entry;
  entry.name = column.name;
  entry.dtype = column.rows.scalar_type();
  entry.shape = column.rows.sizes().slice(1).vec();
  set_row_bytes(entry);
  return entry;
}

ShardRows::ShardRows(ShardHead head, int64_t max_shard_bytes) : head_(std::move(head)) {
  int64_t row_bytes = 0;
  for (const SafetensorsEntry& column : head_.columns) row_bytes += column.end;
  // This header's numbers are as large as they can be; a header with fewer dump rows is not longer.
  const auto header_bytes =
      static_cast<int64_t>(serialize_safetensors_header(header(max_shard_bytes / row_bytes)).size());
  max_rows_ = std::max<int64_t>(1, (max_shard_bytes - header_bytes) / row_bytes);
}

ShardRows::ShardRows(const std::string& path, ShardHead head, int64_t max_shard_bytes)
    : ShardRows(std::move(head), max_shard_bytes) {
  rows_ = std::make_unique<FrameLog>(path);
  rows_->append(kShardBegun, to_text(head_));
}

std::unique_ptr<ShardRows> ShardRows::reopen(const std::string& path, int64_t max_shard_bytes) {
  FrameReader frames(path);
  const std::optional<Frame> begun = frames.next();
  if (!begun || begun->kind != kShardBegun) return nullptr;
  ShardHead head;
  try {
    head = head_from(nlohmann::json::parse(begun->payload));
  } catch (const nlohmann::json::exception&) {
    throw std::runtime_error(path + ": its first frame is whole, but its content is not what moetap writes");
  }
  std::unique_ptr<ShardRows> known(new ShardRows(std::move(head), max_shard_bytes));
  while (const auto frame = frames.next()) known->num_rows_ += rows_in(*frame);
  known->rows_ = std::make_unique<FrameLog>(path, frames.whole_bytes());
  return known;
}

bool ShardRows::takes(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks,
                      const AttentionColumns& attention_columns) const {
  return hooks == head_.hooks && attention_columns == head_.attention_columns &&
         std::equal(columns.begin(), columns.end(), head_.columns.begin(), head_.columns.end(),
                    [](const DumpColumn& column, const SafetensorsEntry& known) {
                      return same_column(column_of(column), known);
                    });
}

void ShardRows::append(const std::vector<DumpColumn>& columns, int64_t begin, int64_t num_rows) {
  const auto number = static_cast<uint64_t>(num_rows);
  std::string payload(reinterpret_cast<const char*>(&number), sizeof(number));
  for (size_t i = 0; i < columns.size(); ++i) {
    const int64_t row_bytes = head_.columns[i].end;
    payload.append(static_cast<const char*>(columns[i].rows.const_data_ptr()) + begin * row_bytes,
                   static_cast<size_t>(num_rows * row_bytes));
  }
  rows_->append(kShardRows, payload);
  num_rows_ += num_rows;
}

void ShardRows::keep(int64_t num_rows) {
  const std::string path = rows_->path();
  FrameReader frames(path);
  frames.next();
  int64_t kept = 0;
  int64_t end_bytes = frames.whole_bytes();
  while (const auto frame = frames.next()) {
    if (kept + rows_in(*frame) > num_rows) break;
    kept += rows_in(*frame);
    end_bytes = frames.whole_bytes();
  }
  rows_ = std::make_unique<FrameLog>(path, end_bytes);
  num_rows_ = kept;
}

SafetensorsHeader ShardRows::header(int64_t num_rows) const {
  SafetensorsHeader header;
  header.metadata = {{keys::kSchemaVersion.name, "1"},
                     {keys::kRank.name, std::to_string(head_.rank)},
                     {keys::kFirstRow.name, std::to_string(head_.first_row)},
                     {keys::kHooks.name, compact_text(nlohmann::json(head_.hooks))}};
  if (!head_.attention_columns.empty()) {
    header.metadata[keys::kAttentionColumns.name] = compact_text(nlohmann::json(head_.attention_columns));
  }
  header.entries = head_.columns;
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

void ShardRows::write_shard(const std::string& path) const {
  const SafetensorsHeader shard = header(num_rows_);
  const std::string head = serialize_safetensors_header(shard);
  AtomicFile file(path);
  file.write(head);
  std::vector<ColumnOutput> outputs;
  for (const SafetensorsEntry& column : head_.columns) {
    const auto placed = std::find_if(shard.entries.begin(), shard.entries.end(),
                                     [&](const SafetensorsEntry& entry) { return entry.name == column.name; });
    outputs.emplace_back(file, static_cast<int64_t>(head.size()) + placed->begin);
  }
  int64_t rows_read = 0;
  FrameReader frames(rows_->path());
  while (const auto frame = frames.next()) {
    if (frame->kind != kShardRows) continue;
    const int64_t num_rows = rows_in(*frame);
    std::string_view rest = std::string_view(frame->payload).substr(sizeof(uint64_t));
    for (size_t i = 0; i < outputs.size(); ++i) {
      const auto bytes = static_cast<size_t>(num_rows * head_.columns[i].end);
      if (bytes > rest.size()) throw std::runtime_error("cannot read " + rows_->path() + ": a frame ends early");
      outputs[i].write(rest.substr(0, bytes));
      rest.remove_prefix(bytes);
    }
    rows_read += num_rows;
  }
  if (rows_read != num_rows_) {
    throw std::runtime_error(
        c10::str("cannot read ", rows_->path(), ": expected ", num_rows_, " rows, got ", rows_read));
  }
  for (ColumnOutput& output : outputs) output.flush();
  file.commit();
}

void ShardRows::remove() {
  const std::string path = rows_->path();
  rows_.reset();
  std::filesystem::remove(path);
}

}  // namespace moetap::plugin
