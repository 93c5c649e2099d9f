#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugin/dump/column_file.h"
#include "plugin/dump/shard_head.h"
#include "plugin/formats/frame_log.h"

namespace moetap::plugin {

// Note [Rows of an open shard]
// A safetensors file holds each column in one piece. How many dump rows a full shard has is known before its first one,
// so each column has its place from the start: dump rows are written into SERIES-NNNNNN.columns in the journal, once,
// and when it is full it gets its header and becomes the shard by a new name. Only a shard that ends before it is full
// (the last one of a series) is copied, with its columns moved together.
//
// SERIES-NNNNNN.rows says which dump rows are there: a frame with the shard's head (kShardBegun, JSON), then one for
// each forward, written after its dump rows (kShardRows: u64 number of dump rows, u64 checksum of those of each
// column). A process that is killed, or a power cut, may leave dump rows without a frame or a frame whose dump rows
// never reached the disk: neither counts.
enum ShardFrame : uint32_t { kShardBegun = 10, kShardRows = 11 };

/// The dump rows of one shard that is not finished. Used by one thread. Errors are std::runtime_error with one line.
class ShardRows {
 public:
  /// Creates the file `path` (.rows), and one beside it (.columns).
  ShardRows(const std::string& path, ShardHead head);
  /// Opens existing files and continues after the last whole forward; null if not even the head is whole, or if the
  /// columns are gone.
  static std::unique_ptr<ShardRows> reopen(const std::string& path);

  const ShardHead& head() const { return head_; }
  int64_t num_rows() const { return num_rows_; }                 // with those that `write` has not written yet
  int64_t room() const { return places_.num_rows - num_rows_; }  // how many more fit
  /// True if dump rows of these columns can be appended: same names, dtypes, shapes and hooks.
  bool takes(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks,
             const AttentionColumns& attention_columns = {}) const;

  /// Takes `num_rows` dump rows of the columns, from `begin` on, as those of one forward. Keeps the tensors, which must
  /// not change, until `write`. `takes` must accept the columns.
  void append(const std::vector<DumpColumn>& columns, int64_t begin, int64_t num_rows);
  /// Writes what was appended: one write a column, and one of frames.
  void write();
  void sync();
  /// Throws if a file was removed or replaced.
  void check_in_place() const;

  /// Keeps the forwards that lie within the first `num_rows` dump rows. For rows that are written.
  void keep(int64_t num_rows);

  /// Makes the shard, once all rows are written; it appears whole or not at all. Removes its own files.
  void become_shard(const std::string& path);

  /// Removes the files, where the dump rows are not needed.
  void remove();

 private:
  struct Piece {
    std::vector<DumpColumn> columns;
    int64_t begin = 0, num_rows = 0;
  };
  explicit ShardRows(ShardHead head);
  void open_columns(const std::string& path, ColumnFile::Open open);
  std::string_view bytes_of(const Piece& piece, size_t column) const;
  void keep_in(const std::string& path, int64_t num_rows);
  void take_whole(const std::vector<std::pair<int64_t, uint64_t>>& forwards);
  void copy_columns(const std::string& path) const;

  ShardHead head_;
  ShardPlaces places_;
  int64_t num_rows_ = 0, num_written_ = 0;
  std::vector<Piece> appended_;  // and not written
  std::unique_ptr<FrameLog> rows_;
  std::unique_ptr<ColumnFile> columns_;
};

}  // namespace moetap::plugin
