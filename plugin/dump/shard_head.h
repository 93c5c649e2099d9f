#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "plugin/formats/safetensors_header.h"

namespace moetap::plugin {

inline constexpr int64_t kMaxShardBytes = int64_t{256} << 20;

/// A column of a dump, with the dump rows of one forward: CPU, contiguous, [T, ...].
struct DumpColumn {
  std::string name;
  at::Tensor rows;
};

/// What the values of each attention layer's column are, in their order: layer -> names.
using AttentionColumns = std::map<std::string, std::vector<std::string>>;

/// What describes a shard, besides its dump rows.
struct ShardHead {
  std::string series;
  int64_t number = 0;     // of the shard in its series
  int64_t first_row = 0;  // number of the shard's first dump row in its series
  int64_t rank = 0;
  std::map<std::string, std::string> hooks;  // layer -> name
  std::vector<SafetensorsEntry> columns;     // `shape`: of one dump row; `end`: bytes of one dump row
  AttentionColumns attention_columns = {};
  int64_t max_shard_bytes = kMaxShardBytes;  // of the whole file

  int64_t row_bytes() const;  // of all columns
};

/// The column's entry in ShardHead::columns: name and dtype, shape and bytes (`end`) of one dump row.
SafetensorsEntry column_of(const DumpColumn& column);

/// The head as JSON, and back; throws nlohmann::json::exception for a text that no moetap wrote.
std::string to_text(const ShardHead& head);
ShardHead shard_head_from_text(const std::string& text);

/// The header of a shard with `num_rows` dump rows. Its entries are ordered by their places in the file.
SafetensorsHeader shard_header(const ShardHead& head, int64_t num_rows);

/// Where the columns of a shard lie that holds as many dump rows as it can.
struct ShardPlaces {
  int64_t num_rows = 0;              // at least 1
  std::string header;                // the first bytes of the file
  std::vector<int64_t> begin_bytes;  // of each column of the head, from the start of the file
};
ShardPlaces full_shard(const ShardHead& head);

}  // namespace moetap::plugin
