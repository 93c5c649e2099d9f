#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "plugin/dump/shard_rows.h"

namespace moetap::plugin {

/// The shards of one series: DUMP_FOLDER/NAME-000000.safetensors, ... All columns of a shard have the same dump rows; a
/// new shard begins where the columns change. Used by one thread. Errors are std::runtime_error with one line.
///
/// Dump rows are written into files of the journal (Note [Rows of an open shard]), which become shards only in `settle`
/// and `finish`, so that no shard holds rows of a forward that the journal does not hold yet.
class DumpSeries {
 public:
  struct Place {
    std::string dump_folder;
    std::string journal_folder;
    std::string name;  // COMPONENT or COMPONENT.LAYER
    int64_t rank = 0;
    int64_t max_shard_bytes = kMaxShardBytes;  // of the whole file
  };
  explicit DumpSeries(Place place) : place_(std::move(place)) {}

  /// Takes dump rows, which `write` writes. `columns`: all with the same number of rows, which must not change until
  /// then. `hooks`: layer -> name, for the shard's metadata.
  void append(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks,
              const AttentionColumns& attention_columns = {});

  /// Writes what was appended.
  void write();

  /// Number of dump rows so far.
  int64_t num_rows() const { return num_rows_; }

  /// Makes the shards that are full. All rows must be written.
  void settle();

  void sync();

  /// Makes shards of all dump rows; the last one may be smaller.
  void finish();

  /// Names of the series that have files in one of the folders.
  static std::set<std::string> names_in(const std::string& dump_folder, const std::string& journal_folder);

  /// Finds what a killed process left of this series. Returns the number of dump rows from the first one to the first
  /// gap. `cut` must follow.
  int64_t restore();
  /// Continues after the first `num_rows` dump rows; removes later ones, also from finished shards. Returns how many of
  /// the first `num_rows` are missing.
  int64_t cut(int64_t num_rows);

 private:
  /// One thing that `restore` found: a finished shard, or a shard's .rows file in the journal.
  struct Piece {
    int64_t first_row = 0;
    int64_t num_rows = 0;
    std::unique_ptr<ShardRows> rows;  // null: a finished shard
  };

  void make_shard(ShardRows& rows);
  void cut_shard(int64_t number, int64_t num_rows);
  std::string file_of(const std::string& folder, int64_t number, std::string_view extension) const;

  Place place_;
  int64_t next_number_ = 0;  // of the next shard to begin
  int64_t num_rows_ = 0;
  std::vector<std::unique_ptr<ShardRows>> full_;  // in order; no dump rows are added any more
  std::unique_ptr<ShardRows> open_;               // null: none
  std::map<int64_t, Piece> restored_;             // by shard number; empty but between `restore` and `cut`
};

}  // namespace moetap::plugin
