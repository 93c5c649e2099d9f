#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "plugin/dump/dump_series.h"
#include "plugin/records/config.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/layer_table.h"

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

  /// Appends the forward's rows to the journal. Returns how many rows each series that it added to has now.
  std::map<std::string, int64_t> add(const ForwardRecord& record, LayerTable& layers);

  /// Turns full files of rows into shards. Call it only when the journal knows the forwards whose rows they hold.
  void settle();
  void sync();
  /// Turns all rows into shards.
  void finish();

  /// Which layers share their rows, for the journal; empty: as at the last call.
  std::string changed_layout();
  void set_layout(const std::string& layout);

  /// Finds what a process that died left in the folders: how many rows each series has from its first one on without a
  /// gap. `cut` must follow.
  std::map<std::string, int64_t> restore();
  /// Goes on behind the first rows of each series, as many as `rows` says; removes all others. Returns how many of them
  /// are not there.
  int64_t cut(const std::map<std::string, int64_t>& rows);

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
  DumpSeries& series_of(const std::string& name);

  Dump what_;
  Place place_;
  std::set<size_t> loops_;  // layers that reported more than once in a forward
  std::map<std::string, Component> components_;
  std::map<std::string, DumpSeries> series_;  // by name
  std::map<std::string, int64_t> added_to_;   // by the forward at hand: series -> its rows
  bool layout_changed_ = false;
};

}  // namespace moetap::plugin
