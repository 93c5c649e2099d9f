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

/// A column of a dump, with the rows of one forward: CPU, contiguous, [T, ...].
struct DumpColumn {
  std::string name;
  at::Tensor rows;
};

/// What describes a shard, besides its rows.
struct ShardHead {
  std::string series;
  int64_t number = 0;     // of the shard in its series
  int64_t first_row = 0;  // of the shard in its series
  int64_t rank = 0;
  std::map<std::string, std::string> hooks;  // layer -> name
  std::vector<SafetensorsEntry> columns;     // shape of one row; `end`: bytes of one row
};

/// Name, dtype and shape of one row of a column, with the bytes of a row in `end`.
SafetensorsEntry column_of(const DumpColumn& column);

// Note [Rows of an open shard]
// A safetensors file holds a column in one piece, so a shard can only be written once its last row is known. Until then
// its rows are kept in the journal: a frame with the shard's head (kShardBegun, JSON), then one frame for each forward
// (kShardRows: u64 number of rows, then the rows of each column). One pass turns them into columns; it needs memory for
// one forward and a small buffer for each column.
enum ShardFrame : uint32_t { kShardBegun = 10, kShardRows = 11 };

/// The file of rows of one shard. Used by one thread. Errors are std::runtime_error with one line.
class ShardRows {
 public:
  /// Creates the file.
  ShardRows(const std::string& path, ShardHead head, int64_t max_shard_bytes);
  /// Continues a file that exists after its last whole frame; null if not even the head is whole.
  static std::unique_ptr<ShardRows> reopen(const std::string& path, int64_t max_shard_bytes);

  const ShardHead& head() const { return head_; }
  int64_t num_rows() const { return num_rows_; }
  int64_t room() const { return max_rows_ - num_rows_; }  // rows that still fit
  /// True if rows of these columns can follow: same names, dtypes, shapes and hooks.
  bool takes(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks) const;

  /// Appends the rows from `begin` on, as one frame. The columns must be those that `takes` accepts.
  void append(const std::vector<DumpColumn>& columns, int64_t begin, int64_t num_rows);
  void sync() { rows_->sync(); }
  /// Throws if the file was removed or replaced.
  void check_in_place() const { rows_->check_in_place(); }

  /// Keeps the frames that lie within the first `num_rows` rows and cuts off the others.
  void keep(int64_t num_rows);

  /// Writes the shard; it appears whole or not at all.
  void write_shard(const std::string& path) const;

  /// Removes the file, once its rows are in a shard or are not needed.
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
