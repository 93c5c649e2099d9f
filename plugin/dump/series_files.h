#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "plugin/formats/random_access_file.h"
#include "plugin/formats/safetensors_header.h"

namespace moetap::plugin {

inline constexpr std::string_view kShardExtension = ".safetensors";

/// A file of a series, in the dump or in the journal: NAME-000012.EXTENSION.
struct SeriesFile {
  std::string series;
  int64_t number = 0;
};

std::string series_file_name(const std::string& series, int64_t number, std::string_view extension);

/// The files with this extension in a folder; others, and any other spelling such as NAME-12.rows, are not moetap's.
std::vector<SeriesFile> series_files(const std::string& folder, std::string_view extension);

/// A shard's header, and where its data begin; empty if the file is too short for it. Throws std::exception for what is
/// no safetensors file.
struct ShardHeader {
  SafetensorsHeader header;
  int64_t data_begin = 0;
};
std::optional<ShardHeader> read_shard_header(const RandomAccessFile& file);

}  // namespace moetap::plugin
