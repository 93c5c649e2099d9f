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

/// What a shard is made of, besides its rows.
struct ShardHead {
  std::string series;
  int64_t number = 0;     // of the shard in its series
  int64_t first_row = 0;  // of the shard in its series
  int64_t rank = 0;
  std::map<std::string, std::string> hooks;  // layer -> name
  std::vector<SafetensorsEntry> columns;     // shapes without the rows; `end`: bytes of a row
};

/// Name, dtype and shape of a column, with the bytes of a row in `end`.
SafetensorsEntry column_of(const DumpColumn& column);

// Note [Rows of an open shard]
// A safetensors file holds a column in one piece, so a shard can only be written when its last row is known. Until then
// its rows lie in the journal: a frame with the shard's head (kShardBegun, JSON), then a frame a forward (kShardRows:
// u64 rows, then the rows of each column). They are turned into columns in one pass; memory holds a small buffer a
// column and one forward.
enum ShardFrame : uint32_t { kShardBegun = 10, kShardRows = 11 };

/// The file of rows of one shard. Used by one thread. Errors are std::runtime_error with one line.
class ShardRows {
 public:
  /// Creates the file.
  ShardRows(const std::string& path, ShardHead head, int64_t max_shard_bytes);
  /// Goes on in a file that is there, behind its last whole frame; null if not even the head is whole.
  static std::unique_ptr<ShardRows> reopen(const std::string& path, int64_t max_shard_bytes);

  const ShardHead& head() const { return head_; }
  int64_t num_rows() const { return num_rows_; }
  int64_t room() const { return max_rows_ - num_rows_; }  // rows that fit in
  bool takes(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks) const;

  void append(const std::vector<DumpColumn>& columns, int64_t begin, int64_t num_rows);
  void sync() { rows_->sync(); }
  /// Throws if the file was removed meanwhile.
  void check_in_place() const { rows_->check_in_place(); }

  /// Cuts off the frames behind the first `num_rows` rows.
  void keep(int64_t num_rows);

  /// Writes the shard; it appears whole or not at all.
  void write_shard(const std::string& path) const;

  /// Removes the file: its rows are in a shard, or count for nothing.
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
