#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "plugin/config.h"
#include "plugin/dump_series.h"
#include "plugin/forward_record.h"
#include "plugin/layer_table.h"

namespace moetap::plugin {

// Note [Layers with other rows]
// The layers of a component that saw the same tokens share a series of shards; in each forward that is the largest
// group of layers with the same rows, on a tie the first. A layer that was once outside it (pruned tokens, expert
// choice, a loop, an arm that was not taken) has a series of its own from then on, so that a shard's columns do not
// change with every forward.

/// The routing dump of a run: what every router did with every token. Used by one thread. Errors are std::runtime_error
/// with one line.
class DumpWriter {
 public:
  struct Place {
    std::string dump_folder;
    std::string journal_folder;
    int64_t rank = 0;
    int64_t max_shard_bytes = kMaxShardBytes;
  };
  DumpWriter(Dump what, Place place) : what_(what), place_(std::move(place)) {}

  void add(const ForwardRecord& record, LayerTable& layers);
  void sync();
  void finish();

 private:
  struct LayerRows;
  struct Component {
    std::set<size_t> together;  // layers of the shared series
    std::set<size_t> apart;     // layers with a series of their own
  };
  using Group = std::vector<const LayerRows*>;

  std::vector<LayerRows> collect(const ForwardRecord& record, LayerTable& layers);
  void add_component(const std::string& component, const std::vector<LayerRows>& rows, const ForwardRecord& record,
                     const LayerTable& layers);
  void append(const std::string& series, const Group& group, const ForwardRecord& record, const LayerTable& layers);

  Dump what_;
  Place place_;
  std::set<size_t> loops_;  // layers that reported more than once in a forward
  std::map<std::string, Component> components_;
  std::map<std::string, DumpSeries> series_;  // by name
};

}  // namespace moetap::plugin
