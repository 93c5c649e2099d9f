#include "plugin/dump_series.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "plugin/atomic_file.h"

namespace moetap::plugin {
namespace {

constexpr size_t kColumnBufferBytes = size_t{64} << 10;

// Gathers the pieces of one column and writes them to its place in the shard.
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

SafetensorsEntry column_of(const DumpColumn& column) {
  SafetensorsEntry entry;
  entry.name = column.name;
  entry.dtype = column.rows.scalar_type();
  entry.shape = column.rows.sizes().slice(1).vec();
  const int64_t elements = std::accumulate(entry.shape.begin(), entry.shape.end(), int64_t{1}, std::multiplies<>());
  entry.end = elements * static_cast<int64_t>(column.rows.element_size());
  return entry;
}

bool same_column(const SafetensorsEntry& a, const SafetensorsEntry& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape;
}

}  // namespace

std::string DumpSeries::numbered(const char* extension) const {
  char number[32];
  std::snprintf(number, sizeof(number), "-%06lld", static_cast<long long>(shard_));
  return "/" + place_.name + number + extension;
}

void DumpSeries::append(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks) {
  const int64_t num_rows = columns.front().rows.size(0);
  if (num_rows == 0) return;
  std::vector<DumpColumn> contiguous = columns;
  for (DumpColumn& column : contiguous) {
    TORCH_INTERNAL_ASSERT(column.rows.size(0) == num_rows, "column ", column.name, " must have ", num_rows,
                          " rows, got ", column.rows.sizes());
    column.rows = column.rows.contiguous();
  }
  if (rows_ && !fits_open_shard(contiguous, hooks)) finish();
  for (int64_t begin = 0; begin < num_rows;) {
    if (!rows_) begin_shard(contiguous, hooks);
    const int64_t number = std::min(num_rows - begin, max_rows_ - num_rows_);
    append_rows(contiguous, begin, number);
    begin += number;
    if (num_rows_ == max_rows_) finish();
  }
}

bool DumpSeries::fits_open_shard(const std::vector<DumpColumn>& columns,
                                 const std::map<std::string, std::string>& hooks) const {
  return hooks == hooks_ && std::equal(columns.begin(), columns.end(), columns_.begin(), columns_.end(),
                                       [](const DumpColumn& column, const SafetensorsEntry& known) {
                                         return same_column(column_of(column), known);
                                       });
}

void DumpSeries::begin_shard(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks) {
  columns_.clear();
  for (const DumpColumn& column : columns) columns_.push_back(column_of(column));
  hooks_ = hooks;
  num_rows_ = 0;
  int64_t row_bytes = 0;
  for (const SafetensorsEntry& column : columns_) row_bytes += column.end;
  // A header with fewer rows is not longer.
  const auto header_bytes =
      static_cast<int64_t>(serialize_safetensors_header(header(place_.max_shard_bytes / row_bytes)).size());
  max_rows_ = std::max<int64_t>(1, (place_.max_shard_bytes - header_bytes) / row_bytes);

  nlohmann::ordered_json begun = {{"series", place_.name},   {"shard", shard_},
                                  {"first_row", first_row_}, {"rank", place_.rank},
                                  {"hooks", hooks_},         {"columns", nlohmann::ordered_json::array()}};
  for (const SafetensorsEntry& column : columns_) {
    begun["columns"].push_back(
        {{"name", column.name}, {"dtype", safetensors_dtype_name(column.dtype)}, {"shape", column.shape}});
  }
  rows_ = std::make_unique<FrameLog>(place_.journal_folder + numbered(".rows"));
  rows_->append(kShardBegun, begun.dump());
}

void DumpSeries::append_rows(const std::vector<DumpColumn>& columns, int64_t begin, int64_t num_rows) {
  const auto number = static_cast<uint64_t>(num_rows);
  std::string payload(reinterpret_cast<const char*>(&number), sizeof(number));
  for (size_t i = 0; i < columns.size(); ++i) {
    const int64_t row_bytes = columns_[i].end;
    payload.append(static_cast<const char*>(columns[i].rows.const_data_ptr()) + begin * row_bytes,
                   static_cast<size_t>(num_rows * row_bytes));
  }
  rows_->append(kShardRows, payload);
  num_rows_ += num_rows;
}

SafetensorsHeader DumpSeries::header(int64_t num_rows) const {
  SafetensorsHeader header;
  header.metadata = {{"schema_version", "1"},
                     {"rank", std::to_string(place_.rank)},
                     {"first_row", std::to_string(first_row_)},
                     {"hooks", nlohmann::json(hooks_).dump()}};
  header.entries = columns_;
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

void DumpSeries::sync() {
  if (rows_) rows_->sync();
}

void DumpSeries::finish() {
  if (!rows_) return;
  std::filesystem::create_directories(place_.dump_folder);
  const SafetensorsHeader shard = header(num_rows_);
  const std::string head = serialize_safetensors_header(shard);
  AtomicFile file(place_.dump_folder + numbered(".safetensors"));
  file.write(head);
  std::vector<ColumnOutput> outputs;
  for (const SafetensorsEntry& column : columns_) {
    const auto placed = std::find_if(shard.entries.begin(), shard.entries.end(),
                                     [&](const SafetensorsEntry& entry) { return entry.name == column.name; });
    outputs.emplace_back(file, static_cast<int64_t>(head.size()) + placed->begin);
  }
  int64_t rows_read = 0;
  FrameReader frames(rows_->path());
  while (const auto frame = frames.next()) {
    if (frame->kind != kShardRows) continue;
    uint64_t num_rows = 0;
    std::memcpy(&num_rows, frame->payload.data(), sizeof(num_rows));
    std::string_view rest = std::string_view(frame->payload).substr(sizeof(num_rows));
    for (size_t i = 0; i < outputs.size(); ++i) {
      const size_t bytes = num_rows * static_cast<size_t>(columns_[i].end);
      outputs[i].write(rest.substr(0, bytes));
      rest.remove_prefix(bytes);
    }
    rows_read += static_cast<int64_t>(num_rows);
  }
  if (rows_read != num_rows_) {
    throw std::runtime_error(
        c10::str("cannot read ", rows_->path(), ": expected ", num_rows_, " rows, got ", rows_read));
  }
  for (ColumnOutput& output : outputs) output.flush();
  file.commit();
  const std::string finished = rows_->path();
  rows_.reset();
  std::filesystem::remove(finished);
  ++shard_;
  first_row_ += num_rows_;
}

}  // namespace moetap::plugin
