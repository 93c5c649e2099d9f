#include "plugin/dump/series_files.h"

#include <charconv>
#include <cstdio>
#include <filesystem>

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

std::optional<SeriesFile> series_file(const fs::path& path, std::string_view extension) {
  const std::string stem = path.stem().string();
  const size_t dash = stem.rfind('-');
  if (dash == std::string::npos || dash == 0) return std::nullopt;
  SeriesFile file{stem.substr(0, dash), 0};
  const auto read = std::from_chars(stem.data() + dash + 1, stem.data() + stem.size(), file.number);
  const bool is_ours =
      read.ec == std::errc{} && path.filename() == series_file_name(file.series, file.number, extension);
  return is_ours ? std::optional(file) : std::nullopt;
}

}  // namespace

std::string series_file_name(const std::string& series, int64_t number, std::string_view extension) {
  char text[32];
  std::snprintf(text, sizeof(text), "-%06lld", static_cast<long long>(number));
  return series + text + std::string(extension);
}

std::vector<SeriesFile> series_files(const std::string& folder, std::string_view extension) {
  std::vector<SeriesFile> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (auto file = series_file(entry.path(), extension)) files.push_back(std::move(*file));
  }
  return files;
}

std::optional<ShardHeader> read_shard_header(const RandomAccessFile& file) {
  uint64_t length = 0;
  file.read(0, &length, sizeof(length));
  const auto begin = static_cast<int64_t>(sizeof(length));
  if (length > static_cast<uint64_t>(file.size_bytes() - begin)) return std::nullopt;
  const auto end = begin + static_cast<int64_t>(length);
  return ShardHeader{parse_safetensors_header(file.read(begin, static_cast<int64_t>(length)), file.size_bytes() - end),
                     end};
}

}  // namespace moetap::plugin
