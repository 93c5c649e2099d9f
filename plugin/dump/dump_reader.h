#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugin/formats/random_access_file.h"
#include "plugin/formats/safetensors_header.h"

namespace moetap::plugin {

/// A finished shard: its header, checked. The rows stay on the disk.
struct DumpShard {
  std::string path;
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t data_begin = 0;                           // bytes
  std::map<std::string, SafetensorsEntry> columns;  // by name
};

/// The shards of one series of one rank, read at any row. A row that lies in no whole shard reads as "missing": ids −1,
/// reals NaN, integers −1. Used by one thread; keeps one file open; blocks on the disk. Errors are std::runtime_error
/// with one line that names the file.
class DumpSeriesReader {
 public:
  /// `name`: COMPONENT or COMPONENT.LAYER. What is wrong with a shard goes to `damage`, one line each; the shard is
  /// left out and what is whole is read.
  DumpSeriesReader(const std::string& folder, std::string name, int64_t rank, std::vector<std::string>& damage);

  const std::string& name() const { return name_; }
  std::string component() const;
  std::string layer() const;  // "": the series of the component, or one without a whole shard
  int64_t rank() const { return rank_; }
  const std::vector<DumpShard>& shards() const { return shards_; }
  int64_t num_rows() const { return num_rows_; }  // up to the end of the last whole shard
  bool has_column(const std::string& column) const;
  /// Of one row; the largest of all shards. 0: there is no such column, or it has no elements.
  int64_t width(const std::string& column) const;
  /// Layers with a column LAYER.selected.
  std::vector<std::string> layers() const;
  bool is_missing(int64_t row) const;

  /// Integers of any width, [n].
  void read_integers(const std::string& column, int64_t first, int64_t n, int64_t* out) const;
  /// Ids i16, i32 or i64, [n, width]; narrower shards are filled up with −1.
  void read_ids(const std::string& column, int64_t first, int64_t n, int64_t width, int32_t* out) const;
  /// f16, bf16, f32 or f64, [n, width]; narrower shards are filled up with `fill`, missing rows are NaN.
  void read_reals(const std::string& column, int64_t first, int64_t n, int64_t width, float fill, float* out) const;

  /// Names of the series of a rank's folder, without those of attention in full.
  static std::vector<std::string> names_in(const std::string& folder);
  /// Whether a series of this name can be of the component: COMPONENT or COMPONENT.LAYER. A component's name may hold
  /// dots, too: the shards' columns tell (`component`).
  static bool may_be_of(const std::string& name, const std::string& component);

 private:
  void add_shard(DumpShard shard, std::vector<std::string>& damage);
  void open(const DumpShard& shard) const;
  /// Calls use(shard or nullptr, entry or nullptr, first row in the shard, rows, place in the output).
  template <typename Use>
  void for_pieces(const std::string& column, int64_t first, int64_t n, const Use& use) const;
  void read_bytes(const DumpShard& shard, const SafetensorsEntry& entry, int64_t first, int64_t n) const;

  std::string name_;
  int64_t rank_;
  std::vector<DumpShard> shards_;  // ascending, without overlap
  int64_t num_rows_ = 0;
  mutable std::unique_ptr<RandomAccessFile> open_;
  mutable std::string bytes_;
};

}  // namespace moetap::plugin
