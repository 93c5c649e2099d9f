#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plugin/dump/dump_reader.h"
#include "plugin/dump/dumped_forward.h"
#include "plugin/dump/shard_head.h"

namespace moetap::plugin {

/// A layer of another run's dump, in the run that it is read for.
struct LayerPlace {
  size_t layer = 0;  // place in that run's LayerTable
  int64_t hook = 0;  // layers of a forward come in the order of their hooks
};
using LayerPlaces = std::map<std::pair<std::string, std::string>, LayerPlace>;  // by component, layer id

/// Reads the dump of one rank forward by forward, in any order, fastest in the order in which they lie. Used by one
/// thread; blocks on the disk. Errors are std::runtime_error with one line that names the file.
class DumpForwardReader {
 public:
  /// `places` must know every layer of the dump and outlive this. What is wrong with a shard goes to `damage`, one line
  /// each; its rows are missing.
  DumpForwardReader(const std::string& folder, int64_t rank, const LayerPlaces& places,
                    std::vector<std::string>& damage);
  ~DumpForwardReader();

  int64_t num_series() const { return static_cast<int64_t>(series_.size()); }
  /// Rows of a series up to the end of its last whole shard; 0: there is no such series.
  int64_t num_rows(const std::string& series) const;
  /// The most that is read ahead in one series.
  void set_read_ahead_bytes(int64_t bytes) { read_ahead_bytes_ = bytes; }

  struct Extent {
    std::string series;
    int64_t begin = 0, rows = 0;
  };
  /// The rows of one forward. `index`: its number in the run that was dumped, which is checked. Rows that lie in no
  /// whole shard are left out. The forward's samples are sample numbers plus `sample_offset` where they are known.
  DumpedForward read(int64_t index, const std::vector<Extent>& extents, int64_t sample_offset);

 private:
  class Series;
  const LayerPlaces& places_;
  std::map<std::string, std::unique_ptr<Series>> series_;
  int64_t read_ahead_bytes_ = int64_t{8} << 20;
};

}  // namespace moetap::plugin
