#include "plugin/dump/shard_rows.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <utility>

#include "plugin/formats/atomic_file.h"
#include "plugin/formats/checksum.h"
#include "plugin/formats/file_error.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kBlockBytes = int64_t{8} << 20;  // of all columns, that are read at once

/// The payload of a kShardRows frame.
struct RowsFrame {
  uint64_t num_rows = 0;
  uint64_t sum = 0;
};

RowsFrame rows_in(const Frame& frame) {
  RowsFrame rows;
  if (frame.payload.size() != sizeof(rows)) throw std::runtime_error("a frame of a shard's rows has another size");
  std::memcpy(&rows, frame.payload.data(), sizeof(rows));
  return rows;
}

bool same_column(const SafetensorsEntry& a, const SafetensorsEntry& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape;
}

std::string columns_path(const std::string& rows_path) {
  return std::filesystem::path(rows_path).replace_extension(".columns").string();
}

}  // namespace

ShardRows::ShardRows(ShardHead head) : head_(std::move(head)), places_(full_shard(head_)) {}

ShardRows::ShardRows(const std::string& path, ShardHead head) : ShardRows(std::move(head)) {
  rows_ = std::make_unique<FrameLog>(path);
  rows_->append(kShardBegun, to_text(head_));
  open_columns(path, ColumnFile::Open::kNew);
}

void ShardRows::open_columns(const std::string& path, ColumnFile::Open open) {
  std::vector<ColumnFile::Column> columns;
  for (size_t i = 0; i < head_.columns.size(); ++i) {
    columns.push_back({places_.begin_bytes[i], head_.columns[i].end});
  }
  columns_ = std::make_unique<ColumnFile>(columns_path(path), std::move(columns), open);
}

std::unique_ptr<ShardRows> ShardRows::reopen(const std::string& path) {
  FrameReader frames(path);
  const std::optional<Frame> begun = frames.next();
  if (!begun || begun->kind != kShardBegun) return nullptr;
  ShardHead head;
  try {
    head = shard_head_from_text(begun->payload);
  } catch (const nlohmann::json::exception&) {
    throw std::runtime_error(path + ": its first frame is whole, but its content is not what moetap writes");
  }
  if (!std::filesystem::exists(columns_path(path))) return nullptr;
  std::unique_ptr<ShardRows> known(new ShardRows(std::move(head)));
  known->open_columns(path, ColumnFile::Open::kExisting);
  // Forwards are read by blocks of them, since the dump rows of one may be a few bytes in each of many columns.
  std::vector<std::pair<int64_t, uint64_t>> block;  // number of dump rows and checksum of each
  int64_t block_rows = 0;
  auto room = static_cast<uint64_t>(known->places_.num_rows);
  while (const auto frame = frames.next()) {
    const RowsFrame rows = rows_in(*frame);
    if (rows.num_rows > room) break;
    room -= rows.num_rows;
    block.emplace_back(static_cast<int64_t>(rows.num_rows), rows.sum);
    block_rows += static_cast<int64_t>(rows.num_rows);
    if (block_rows * known->head_.row_bytes() < kBlockBytes) continue;
    known->take_whole(std::exchange(block, {}));
    block_rows = 0;
  }
  known->take_whole(block);
  known->keep_in(path, known->num_rows_);
  return known;
}

// Counts the dump rows of the forwards that are in the columns as they were written, up to the first that is not.
// `forwards` follow those that were taken before.
void ShardRows::take_whole(const std::vector<std::pair<int64_t, uint64_t>>& forwards) {
  if (num_rows_ != num_written_) return;  // an earlier one was not whole
  int64_t all = 0;
  for (const auto& [num_rows, sum] : forwards) all += num_rows;
  std::vector<uint64_t> sums(forwards.size());
  num_written_ += all;
  try {
    for (size_t i = 0; i < head_.columns.size(); ++i) {
      const std::string bytes = columns_->read(i, num_rows_, all);
      std::string_view rest = bytes;
      for (size_t f = 0; f < forwards.size(); ++f) {
        const auto size = static_cast<size_t>(forwards[f].first * head_.columns[i].end);
        sums[f] = checksum(sums[f], rest.substr(0, size));
        rest.remove_prefix(size);
      }
    }
  } catch (const FileError&) {
    throw;
  } catch (const std::runtime_error&) {
    return;  // the columns end early: none of this block counts
  }
  for (size_t f = 0; f < forwards.size() && sums[f] == forwards[f].second; ++f) num_rows_ += forwards[f].first;
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
  appended_.push_back({columns, begin, num_rows});
  num_rows_ += num_rows;
}

std::string_view ShardRows::bytes_of(const Piece& piece, size_t column) const {
  const int64_t row_bytes = head_.columns[column].end;
  return {static_cast<const char*>(piece.columns[column].rows.const_data_ptr()) + piece.begin * row_bytes,
          static_cast<size_t>(piece.num_rows * row_bytes)};
}

void ShardRows::write() {
  if (appended_.empty()) return;
  std::vector<RowsFrame> frames;
  for (const Piece& piece : appended_) frames.push_back({static_cast<uint64_t>(piece.num_rows), 0});
  for (size_t i = 0; i < head_.columns.size(); ++i) {
    std::vector<std::string_view> pieces;
    for (size_t p = 0; p < appended_.size(); ++p) {
      pieces.push_back(bytes_of(appended_[p], i));
      frames[p].sum = checksum(frames[p].sum, pieces.back());
    }
    columns_->write(i, num_written_, pieces);
  }
  rows_->begin_batch();
  for (const RowsFrame& frame : frames) {
    rows_->append(kShardRows, {reinterpret_cast<const char*>(&frame), sizeof(frame)});
  }
  rows_->end_batch();
  appended_.clear();
  num_written_ = num_rows_;
}

void ShardRows::sync() {
  check_in_place();
  columns_->sync();
  rows_->sync();
}

void ShardRows::check_in_place() const {
  rows_->check_in_place();
  columns_->check_in_place();
}

void ShardRows::keep(int64_t num_rows) {
  keep_in(std::string(rows_->path()), num_rows);
}

void ShardRows::keep_in(const std::string& path, int64_t num_rows) {
  FrameReader frames(path);
  frames.next();
  int64_t kept = 0;
  int64_t end_bytes = frames.whole_bytes();
  while (const auto frame = frames.next()) {
    const auto rows = static_cast<int64_t>(rows_in(*frame).num_rows);
    if (rows < 0 || rows > num_rows - kept) break;
    kept += rows;
    end_bytes = frames.whole_bytes();
  }
  rows_ = std::make_unique<FrameLog>(path, end_bytes);
  num_rows_ = num_written_ = kept;
}

void ShardRows::become_shard(const std::string& path) {
  check_in_place();
  if (num_rows_ < places_.num_rows) {
    copy_columns(path);
    remove();
    return;
  }
  columns_->write_header(places_.header);
  columns_->sync();
  if (std::rename(columns_->path().c_str(), path.c_str()) != 0) throw_file_error("write", path, errno);
  sync_folder(std::filesystem::path(path).parent_path().string());
  const std::string rows_path = rows_->path();
  columns_.reset();
  rows_.reset();
  std::filesystem::remove(rows_path);
}

void ShardRows::copy_columns(const std::string& path) const {
  const SafetensorsHeader shard = shard_header(head_, num_rows_);
  const std::string head = serialize_safetensors_header(shard);
  AtomicFile file(path, AtomicFile::Readers::kOwner);
  file.write(head);
  for (size_t i = 0; i < head_.columns.size(); ++i) {
    const SafetensorsEntry& column = head_.columns[i];
    const auto placed = std::find_if(shard.entries.begin(), shard.entries.end(),
                                     [&](const SafetensorsEntry& entry) { return entry.name == column.name; });
    const int64_t block = std::max<int64_t>(1, kBlockBytes / std::max<int64_t>(1, column.end));
    for (int64_t row = 0; row < num_rows_; row += block) {
      file.write_at(static_cast<int64_t>(head.size()) + placed->begin + row * column.end,
                    columns_->read(i, row, std::min(block, num_rows_ - row)));
    }
  }
  file.commit();
}

void ShardRows::remove() {
  const std::string rows_path = rows_->path();
  rows_.reset();
  columns_.reset();
  std::filesystem::remove(rows_path);
  std::filesystem::remove(columns_path(rows_path));
}

}  // namespace moetap::plugin
