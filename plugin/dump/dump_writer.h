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

  /// Which layers share their rows: Note [Layers with other rows].
  struct Layout {
    struct Component {
      std::set<size_t> together;  // layers of the shared series
      std::set<size_t> apart;     // layers with a series of their own
      bool operator==(const Component&) const = default;
    };
    std::set<size_t> loops;  // layers that reported more than once in a forward
    std::map<std::string, Component> components;
    bool operator==(const Layout&) const = default;
  };

  /// The rows of one forward. Once they are prepared, only the disk can refuse them.
  struct ForwardRows {
    struct OfSeries {
      std::string series;
      std::vector<DumpColumn> columns;  // contiguous, all with the same number of rows
      std::map<std::string, std::string> hooks;
    };
    std::vector<OfSeries> series;
    Layout layout;                            // from this forward on
    std::string layout_text;                  // the same for the journal; empty: as before
    std::map<std::string, int64_t> num_rows;  // of each series that is added to, with this forward
  };
  /// Makes a forward's rows. `layers` must know its hooks. Changes nothing.
  ForwardRows prepare(const ForwardRecord& record, const LayerTable& layers) const;

  /// Appends what `prepare` gave to the journal. Nothing may be added between the two.
  void add(ForwardRows rows);

  /// Turns full files of rows into shards. Call it only when the journal knows the forwards whose rows they hold.
  void settle();
  void sync();
  /// Turns all rows into shards.
  void finish();

  /// Takes a `layout_text` back from the journal.
  void set_layout(const std::string& layout);

  /// Finds what a process that died left in the folders: how many rows each series has from its first one on without a
  /// gap. `cut` must follow.
  std::map<std::string, int64_t> restore();
  /// Goes on behind the first rows of each series, as many as `rows` says; removes all others. Returns how many of them
  /// are not there.
  int64_t cut(const std::map<std::string, int64_t>& rows);

 private:
  class Preparation;
  DumpSeries& series_of(const std::string& name);

  Dump what_;
  Place place_;
  Layout layout_;
  std::map<std::string, DumpSeries> series_;  // by name
};

}  // namespace moetap::plugin
