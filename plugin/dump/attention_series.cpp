#include "plugin/dump/attention_series.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string_view>

#include "plugin/dump/dump_keys.h"
#include "plugin/dump/matrix_frames.h"
#include "plugin/dump/series_files.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/json_text.h"
#include "plugin/formats/random_access_file.h"
#include "plugin/formats/safetensors_header.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFramesExtension = ".matrices";
constexpr std::string_view kNameEnd = ".attention";

/// The files of series of attention.
std::vector<SeriesFile> attention_files(const std::string& folder, std::string_view extension) {
  std::vector<SeriesFile> files = series_files(folder, extension);
  std::erase_if(files, [](const SeriesFile& file) { return !AttentionSeries::is_name(file.series); });
  return files;
}

/// Writes tensors that `next` gives one after the other, in the order of the header.
template <typename Next>
void write_matrices(const std::string& path, const SafetensorsHeader& header, const Next& next) {
  AtomicFile file(path, AtomicFile::Readers::kOwner);
  file.write(serialize_safetensors_header(header));
  for (size_t i = 0; i < header.entries.size(); ++i) file.write(next(header.entries[i]));
  file.commit();
}

void add_entry(SafetensorsHeader& header, std::string name, int64_t queries, int64_t keys) {
  const int64_t begin = header.entries.empty() ? 0 : header.entries.back().end;
  header.entries.push_back(
      {std::move(name), at::kFloat, {queries, keys}, begin, begin + queries * keys * int64_t{sizeof(float)}});
}

}  // namespace

bool AttentionSeries::is_name(const std::string& series) {
  return series.size() > kNameEnd.size() && series.ends_with(kNameEnd);
}

std::string AttentionSeries::shard_path(int64_t number) const {
  return place_.dump_folder + "/" + series_file_name(place_.name, number, kShardExtension);
}

std::string AttentionSeries::frames_path(int64_t number) const {
  return place_.journal_folder + "/" + series_file_name(place_.name, number, kFramesExtension);
}

void AttentionSeries::begin_piece(const Metadata& metadata) {
  open_ = std::make_unique<Piece>(Piece{next_number_, num_matrices_});
  open_->metadata = metadata;
  open_->frames = std::make_unique<FrameLog>(frames_path(next_number_));
  Metadata all = metadata;
  all[keys::kSchemaVersion.name] = "1";
  all[keys::kRank.name] = std::to_string(place_.rank);
  all[keys::kFirstRow.name] = std::to_string(num_matrices_);
  open_->frames->append(kMatricesBegun, compact_text(nlohmann::json(all)));
  ++next_number_;
}

void AttentionSeries::append(const std::vector<AttentionMatrix>& matrices, const Metadata& metadata) {
  for (const AttentionMatrix& matrix : matrices) {
    const auto bytes = static_cast<int64_t>(matrix.probabilities.nbytes());
    const bool is_full = open_ && open_->num_matrices > 0 &&
                         (open_->bytes + bytes > place_.max_shard_bytes || open_->names.contains(matrix.name) ||
                          open_->metadata != metadata);
    if (is_full) full_.push_back(std::move(open_));
    if (!open_) begin_piece(metadata);
    open_->frames->append(kMatrix, to_frame(matrix));
    open_->names.insert(matrix.name);
    open_->bytes += bytes;
    ++open_->num_matrices;
    ++num_matrices_;
  }
}

void AttentionSeries::sync() {
  for (const auto& piece : full_) piece->frames->sync();
  if (open_) open_->frames->sync();
}

void AttentionSeries::make_shard(Piece& piece) {
  // Otherwise a run directory that was removed would be made again, with this shard alone.
  piece.frames->check_in_place();
  fs::create_directories(place_.dump_folder);
  const std::string path = frames_path(piece.number);
  SafetensorsHeader header;
  FrameReader heads(path);
  while (const auto frame = heads.next()) {
    if (frame->kind == kMatricesBegun) {
      header.metadata = nlohmann::json::parse(frame->payload).get<std::map<std::string, std::string>>();
    } else if (frame->kind == kMatrix) {
      const FramedMatrix matrix = from_frame(*frame, path);
      add_entry(header, std::string(matrix.name), matrix.queries, matrix.keys);
    }
  }
  if (static_cast<int64_t>(header.entries.size()) != piece.num_matrices) {
    throw std::runtime_error("cannot read " + path + ": expected " + std::to_string(piece.num_matrices) +
                             " matrices, got " + std::to_string(header.entries.size()));
  }
  FrameReader frames(path);
  std::optional<Frame> frame;
  write_matrices(shard_path(piece.number), header, [&](const SafetensorsEntry&) {
    do frame = frames.next();
    while (frame && frame->kind != kMatrix);
    if (!frame) throw std::runtime_error("cannot read " + path + ": it became shorter");
    return from_frame(*frame, path).bytes;
  });
  piece.frames.reset();
  fs::remove(path);
}

void AttentionSeries::settle() {
  while (!full_.empty()) {
    make_shard(*full_.front());
    full_.erase(full_.begin());
  }
}

void AttentionSeries::finish() {
  settle();
  if (!open_) return;
  make_shard(*open_);
  open_.reset();
}

std::set<std::string> AttentionSeries::names_in(const std::string& dump_folder, const std::string& journal_folder) {
  std::set<std::string> names;
  for (auto& file : attention_files(dump_folder, kShardExtension)) names.insert(std::move(file.series));
  for (auto& file : attention_files(journal_folder, kFramesExtension)) names.insert(std::move(file.series));
  return names;
}

std::unique_ptr<AttentionSeries::Piece> AttentionSeries::reopen(const std::string& path, int64_t number) const {
  FrameReader frames(path);
  const std::optional<Frame> begun = frames.next();
  if (!begun || begun->kind != kMatricesBegun) return nullptr;
  auto metadata = nlohmann::json::parse(begun->payload).get<Metadata>();
  auto piece = std::make_unique<Piece>(Piece{number, std::stoll(metadata.at(keys::kFirstRow.name))});
  for (const auto& key : {keys::kSchemaVersion, keys::kRank, keys::kFirstRow}) metadata.erase(key.name);
  piece->metadata = std::move(metadata);
  while (const auto frame = frames.next()) {
    const FramedMatrix matrix = from_frame(*frame, path);
    piece->names.emplace(matrix.name);
    piece->bytes += static_cast<int64_t>(matrix.bytes.size());
    ++piece->num_matrices;
  }
  piece->frames = std::make_unique<FrameLog>(path, frames.whole_bytes());
  return piece;
}

int64_t AttentionSeries::restore() {
  for (const auto& file : attention_files(place_.dump_folder, kShardExtension)) {
    if (file.series != place_.name) continue;
    try {
      const RandomAccessFile shard(shard_path(file.number));
      const auto found = read_shard_header(shard);
      if (!found) continue;
      const SafetensorsHeader& header = found->header;
      auto piece = std::make_unique<Piece>(Piece{file.number, std::stoll(header.metadata.at(keys::kFirstRow.name))});
      piece->num_matrices = static_cast<int64_t>(header.entries.size());
      restored_[file.number] = std::move(piece);
    } catch (const std::exception&) {
      // moetap did not write it: it is left alone
    }
  }
  for (const auto& file : attention_files(place_.journal_folder, kFramesExtension)) {
    if (file.series != place_.name) continue;
    const std::string path = frames_path(file.number);
    auto piece = reopen(path, file.number);
    const auto shard = restored_.find(file.number);
    // The process may have been killed after the shard was written and before its frames were removed.
    if (piece && (shard == restored_.end() || piece->num_matrices >= shard->second->num_matrices)) {
      restored_[file.number] = std::move(piece);
    } else {
      piece.reset();
      fs::remove(path);
    }
  }
  int64_t end = 0;
  for (const auto& [number, piece] : restored_) {
    if (piece->first_matrix != end) break;
    end += piece->num_matrices;
  }
  return end;
}

void AttentionSeries::keep(Piece& piece, int64_t num_matrices) const {
  const std::string path = frames_path(piece.number);
  FrameReader frames(path);
  frames.next();
  int64_t end_bytes = frames.whole_bytes();
  piece.names.clear();
  piece.bytes = piece.num_matrices = 0;
  while (piece.num_matrices < num_matrices) {
    const auto frame = frames.next();
    if (!frame) break;
    const FramedMatrix matrix = from_frame(*frame, path);
    piece.names.emplace(matrix.name);
    piece.bytes += static_cast<int64_t>(matrix.bytes.size());
    ++piece.num_matrices;
    end_bytes = frames.whole_bytes();
  }
  piece.frames = std::make_unique<FrameLog>(path, end_bytes);
}

void AttentionSeries::cut_shard(const Piece& piece, int64_t num_matrices) const {
  const std::string path = shard_path(piece.number);
  const RandomAccessFile file(path);
  const auto whole = read_shard_header(file);
  SafetensorsHeader header;
  header.metadata = whole->header.metadata;
  header.entries.assign(whole->header.entries.begin(), whole->header.entries.begin() + num_matrices);
  write_matrices(path, header, [&](const SafetensorsEntry& entry) {
    return file.read(whole->data_begin + entry.begin, entry.end - entry.begin);
  });
}

int64_t AttentionSeries::cut(int64_t num_matrices) {
  int64_t kept = 0;
  for (auto& [number, piece] : restored_) {
    const int64_t keep_here = std::clamp<int64_t>(num_matrices - piece->first_matrix, 0, piece->num_matrices);
    if (keep_here == 0) {
      if (piece->frames) fs::remove(frames_path(number));
      fs::remove(shard_path(number));
      continue;
    }
    if (piece->frames) fs::remove(shard_path(number));  // it may hold what is cut here; `finish` makes it anew
    if (keep_here < piece->num_matrices) {
      piece->frames ? keep(*piece, keep_here) : cut_shard(*piece, keep_here);
    }
    kept += keep_here;
    next_number_ = number + 1;
    if (open_) full_.push_back(std::move(open_));
    if (piece->frames) open_ = std::move(piece);
  }
  restored_.clear();
  num_matrices_ = num_matrices;
  return std::max<int64_t>(num_matrices - kept, 0);
}

}  // namespace moetap::plugin
