#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugin/formats/frame_log.h"
#include "plugin/formats/safetensors_header.h"

namespace moetap::plugin {

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
};

/// The column's entry in ShardHead::columns: name and dtype, shape and bytes (`end`) of one dump row.
SafetensorsEntry column_of(const DumpColumn& column);

// Note [Rows of an open shard]
// A safetensors file holds each column in one piece, so a shard can only be written once its last dump row is known.
// Until then its dump rows are kept in the journal, in a .rows file: a frame with the shard's head (kShardBegun, JSON),
// then one frame for each forward (kShardRows: u64 number of dump rows, then those of each column). One pass over the
// frames writes the columns; it needs memory for one forward and a small buffer for each column.
enum ShardFrame : uint32_t { kShardBegun = 10, kShardRows = 11 };

/// The .rows file of one shard. Used by one thread. Errors are std::runtime_error with one line.
class ShardRows {
 public:
  /// Creates the file.
  ShardRows(const std::string& path, ShardHead head, int64_t max_shard_bytes);
  /// Opens an existing file and continues after its last whole frame; null if not even the head is whole.
  static std::unique_ptr<ShardRows> reopen(const std::string& path, int64_t max_shard_bytes);

  const ShardHead& head() const { return head_; }
  int64_t num_rows() const { return num_rows_; }
  int64_t room() const { return max_rows_ - num_rows_; }  // how many more fit
  /// True if dump rows of these columns can be appended: same names, dtypes, shapes and hooks.
  bool takes(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks,
             const AttentionColumns& attention_columns = {}) const;

  /// Appends `num_rows` dump rows of the columns, from `begin` on, as one frame. `takes` must accept the columns.
  void append(const std::vector<DumpColumn>& columns, int64_t begin, int64_t num_rows);
  void sync() { rows_->sync(); }
  /// Throws if the file was removed or replaced.
  void check_in_place() const { rows_->check_in_place(); }

  /// Keeps the frames that lie within the first `num_rows` dump rows and cuts off the others.
  void keep(int64_t num_rows);

  /// Writes the shard; it appears whole or not at all.
  void write_shard(const std::string& path) const;

  /// Removes the file, once its dump rows are in a shard or are not needed.
  void remove();

 private:
  ShardRows(ShardHead head, int64_t max_shard_bytes);
  SafetensorsHeader header(int64_t num_rows) const;

  ShardHead head_;
  int64_t max_rows_ = 0;
  int64_t num_rows_ = 0;
  std::unique_ptr<FrameLog> rows_;
};

}  // namespace moetap::plugin
