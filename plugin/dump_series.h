#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugin/frame_log.h"
#include "plugin/safetensors_header.h"

namespace moetap::plugin {

inline constexpr int64_t kMaxShardBytes = int64_t{256} << 20;

/// A column of a dump, with the rows of one forward: CPU, [T, ...].
struct DumpColumn {
  std::string name;
  at::Tensor rows;
};

// Note [Rows of an open shard]
// A safetensors file holds a column in one piece, so a shard can only be written when its last row is known. Until then
// its rows lie in the journal: a frame with the columns (kShardBegun, JSON), then a frame a forward (kShardRows: u64
// rows, then the rows of each column). They are turned into columns in one pass when the shard is full; memory holds a
// small buffer a column and one forward.
enum ShardFrame : uint32_t { kShardBegun = 10, kShardRows = 11 };

/// The shards of one series: DUMP_FOLDER/NAME-000000.safetensors, ... All columns of a shard have the same rows; where
/// the columns change, a new shard begins. Used by one thread. Errors are std::runtime_error with one line.
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

  void sync();

  /// Writes the rows that are in no shard yet.
  void finish();

 private:
  bool fits_open_shard(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks) const;
  void begin_shard(const std::vector<DumpColumn>& columns, const std::map<std::string, std::string>& hooks);
  void append_rows(const std::vector<DumpColumn>& columns, int64_t begin, int64_t num_rows);
  SafetensorsHeader header(int64_t num_rows) const;
  std::string numbered(const char* extension) const;

  Place place_;
  int64_t shard_ = 0;      // number of the open shard, or of the next
  int64_t first_row_ = 0;  // of that shard in the series
  // The open shard; null: none.
  std::unique_ptr<FrameLog> rows_;
  std::vector<SafetensorsEntry> columns_;  // shapes without the rows; sizes of a row in `end`
  std::map<std::string, std::string> hooks_;
  int64_t num_rows_ = 0;
  int64_t max_rows_ = 0;
};

}  // namespace moetap::plugin
