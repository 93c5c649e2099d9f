#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "plugin/dump/shard_rows.h"

namespace moetap::plugin {

inline constexpr int64_t kMaxShardBytes = int64_t{256} << 20;

/// The shards of one series: DUMP_FOLDER/NAME-000000.safetensors, ... All columns of a shard have the same rows; where
/// the columns change, a new shard begins. Used by one thread. Errors are std::runtime_error with one line.
///
/// Rows are appended to the journal (Note [Rows of an open shard]) and become shards in `settle` and `finish` only, so
/// that no shard holds rows of a forward that the journal does not know yet.
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

  /// `hooks`: name of each layer, for the shard's metadata.
  void append(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks);

  /// Rows of the series so far.
  int64_t num_rows() const { return num_rows_; }

  /// Turns the rows of full shards into shards.
  void settle();

  void sync();

  /// Turns all rows into shards.
  void finish();

  /// The series of which one of the folders holds files.
  static std::set<std::string> names_in(const std::string& dump_folder, const std::string& journal_folder);

  /// Finds what a process that died left of this series. Returns how many rows there are from the first one on without
  /// a gap. `cut` must follow.
  int64_t restore();
  /// Goes on behind the first `num_rows` rows; those behind them are removed, also from finished shards. Returns how
  /// many of the rows are not there.
  int64_t cut(int64_t num_rows);

 private:
  /// What `restore` found: a finished shard, or the rows of one that is not (or of which it is not known).
  struct Piece {
    int64_t first_row = 0;
    int64_t num_rows = 0;
    std::unique_ptr<ShardRows> rows;  // null: a finished shard
  };

  void make_shard(ShardRows& rows);
  void cut_shard(int64_t number, int64_t num_rows);
  std::string file_of(const std::string& folder, int64_t number, const char* extension) const;

  Place place_;
  int64_t next_number_ = 0;  // of the next shard to begin
  int64_t num_rows_ = 0;
  std::vector<std::unique_ptr<ShardRows>> full_;  // in order; no row is added any more
  std::unique_ptr<ShardRows> open_;               // null: none
  std::map<int64_t, Piece> restored_;             // by number; between `restore` and `cut`
};

}  // namespace moetap::plugin
