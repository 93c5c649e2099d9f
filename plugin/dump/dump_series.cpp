#include "plugin/dump/dump_series.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <stdexcept>

#include "plugin/dump/attention_series.h"
#include "plugin/dump/dump_keys.h"
#include "plugin/dump/series_files.h"
#include "plugin/formats/random_access_file.h"
#include "plugin/formats/safetensors.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kRowsExtension = ".rows";

// Which dump rows of its series a finished shard holds.
struct ShardExtent {
  int64_t first_row = 0;
  int64_t num_rows = 0;
};

// Empty if the file is no shard.
std::optional<ShardExtent> shard_extent(const std::string& path) {
  try {
    const RandomAccessFile file(path);
    const auto shard = read_shard_header(file);
    if (!shard) return std::nullopt;
    const SafetensorsHeader& header = shard->header;
    if (header.entries.empty() || header.entries.front().shape.empty()) return std::nullopt;
    return ShardExtent{std::stoll(header.metadata.at(keys::kFirstRow.name)), header.entries.front().shape.front()};
  } catch (const std::exception&) {
    return std::nullopt;  // moetap did not write it: it is left alone
  }
}

}  // namespace

std::string DumpSeries::file_of(const std::string& folder, int64_t number, std::string_view extension) const {
  return folder + "/" + series_file_name(place_.name, number, extension);
}

void DumpSeries::append(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks,
                        const AttentionColumns& attention_columns) {
  const int64_t num_rows = columns.front().rows.size(0);
  if (num_rows == 0) return;
  if (open_ && !open_->takes(columns, hooks, attention_columns)) full_.push_back(std::move(open_));
  for (int64_t begin = 0; begin < num_rows;) {
    if (!open_) {
      ShardHead head{place_.name, next_number_, num_rows_, place_.rank, hooks, {}};
      head.attention_columns = attention_columns;
      head.max_shard_bytes = place_.max_shard_bytes;
      for (const DumpColumn& column : columns) head.columns.push_back(column_of(column));
      open_ =
          std::make_unique<ShardRows>(file_of(place_.journal_folder, next_number_, kRowsExtension), std::move(head));
      ++next_number_;
    }
    const int64_t number = std::min(num_rows - begin, open_->room());
    open_->append(columns, begin, number);
    begin += number;
    num_rows_ += number;
    if (open_->room() == 0) full_.push_back(std::move(open_));
  }
}

void DumpSeries::write() {
  for (const auto& rows : full_) rows->write();
  if (open_) open_->write();
}

void DumpSeries::sync() {
  for (const auto& rows : full_) rows->sync();
  if (open_) open_->sync();
}

void DumpSeries::make_shard(ShardRows& rows) {
  rows.check_in_place();  // otherwise a run directory that was removed would be made again, with this shard alone
  fs::create_directories(place_.dump_folder);
  rows.become_shard(file_of(place_.dump_folder, rows.head().number, kShardExtension));
}

void DumpSeries::settle() {
  while (!full_.empty()) {
    make_shard(*full_.front());
    full_.erase(full_.begin());
  }
}

void DumpSeries::finish() {
  write();
  settle();
  if (!open_) return;
  make_shard(*open_);
  open_.reset();
}

std::set<std::string> DumpSeries::names_in(const std::string& dump_folder, const std::string& journal_folder) {
  std::set<std::string> names;
  for (auto& file : series_files(dump_folder, kShardExtension)) {
    if (!AttentionSeries::is_name(file.series)) names.insert(std::move(file.series));
  }
  for (auto& file : series_files(journal_folder, kRowsExtension)) names.insert(std::move(file.series));
  return names;
}

int64_t DumpSeries::restore() {
  for (const auto& file : series_files(place_.dump_folder, kShardExtension)) {
    if (file.series != place_.name) continue;
    const auto extent = shard_extent(file_of(place_.dump_folder, file.number, kShardExtension));
    if (extent) restored_[file.number] = {extent->first_row, extent->num_rows, nullptr};
  }
  for (const auto& file : series_files(place_.journal_folder, kRowsExtension)) {
    if (file.series != place_.name) continue;
    const std::string path = file_of(place_.journal_folder, file.number, kRowsExtension);
    auto rows = ShardRows::reopen(path);
    const auto shard = restored_.find(file.number);
    // The process may have been killed after the shard was written and before its rows were removed.
    if (rows && (shard == restored_.end() || rows->num_rows() >= shard->second.num_rows)) {
      restored_[file.number] = {rows->head().first_row, rows->num_rows(), std::move(rows)};
    } else {
      rows.reset();
      fs::remove(path);
      fs::remove(file_of(place_.journal_folder, file.number, ".columns"));
    }
  }
  int64_t end = 0;
  for (const auto& [number, piece] : restored_) {
    if (piece.first_row != end) break;
    end += piece.num_rows;
  }
  return end;
}

void DumpSeries::cut_shard(int64_t number, int64_t num_rows) {
  const std::string path = file_of(place_.dump_folder, number, kShardExtension);
  SafetensorsFile shard = read_safetensors(path);
  for (auto& [name, column] : shard.tensors) column = column.narrow(0, 0, num_rows);
  write_safetensors(path, shard, AtomicFile::Readers::kOwner);
}

int64_t DumpSeries::cut(int64_t num_rows) {
  int64_t kept = 0;
  for (auto& [number, piece] : restored_) {
    const int64_t keep = std::clamp<int64_t>(num_rows - piece.first_row, 0, piece.num_rows);
    if (keep < piece.num_rows && piece.rows) piece.rows->keep(keep);
    if (keep == 0) {
      if (piece.rows) piece.rows->remove();
      fs::remove(file_of(place_.dump_folder, number, kShardExtension));
      continue;
    }
    if (keep < piece.num_rows && !piece.rows) cut_shard(number, keep);
    kept += keep;
    next_number_ = number + 1;
    if (open_) full_.push_back(std::move(open_));
    open_ = std::move(piece.rows);
    if (open_ && open_->room() == 0) full_.push_back(std::move(open_));
  }
  restored_.clear();
  num_rows_ = num_rows;
  return std::max<int64_t>(num_rows - kept, 0);
}

}  // namespace moetap::plugin
