#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "plugin/dump/dump_series.h"
#include "plugin/dump/dumped_forward.h"
#include "plugin/records/config.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/run_layers.h"

namespace moetap::plugin {

// Note [Layers with other rows]
// The layers of a component that saw the same tokens share one series of shards. In each forward these are the largest
// group of layers with the same dump rows; of groups of one size, the first. A layer that was once outside that group
// (pruned tokens, expert choice, a loop, an arm that was not taken) has a series of its own from then on, so that a
// shard's columns do not change with every forward. If none of the layers that share the series ran, those that ran in
// their place get series of their own.

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
  struct Columns {
    Dump what = Dump::kNone;
    DumpWeights weights = DumpWeights::kF32;
  };
  DumpWriter(Columns wanted, Place place) : wanted_(wanted), place_(std::move(place)) {}

  /// Which layers share their dump rows: Note [Layers with other rows]. A layer is its place in the LayerTable.
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

  /// The dump rows of one forward. Once they are prepared, only the disk can refuse them.
  struct ForwardRows {
    struct OfSeries {
      std::string series;
      std::vector<DumpColumn> columns;           // contiguous, all with the same number of rows
      std::map<std::string, std::string> hooks;  // layer -> name
      AttentionColumns attention_columns = {};
    };
    std::vector<OfSeries> series;
    Layout layout;                            // from this forward on
    std::string layout_text;                  // `layout` as JSON for the journal; empty: it did not change
    std::map<std::string, int64_t> num_rows;  // series that gets dump rows -> how many it has with them
  };
  /// Makes a forward's dump rows. `layers` must know the record's hooks. Changes nothing.
  ForwardRows prepare(const ForwardRecord& record, const RunLayers& layers) const;
  /// The same of a forward that was read from a dump, with the columns that it has.
  ForwardRows prepare(const DumpedForward& forward, const LayerTable& layers) const;

  /// Writes what `prepare` gave; between `begin_batch` and `end_batch` only takes it. Nothing may be added between
  /// `prepare` and this.
  void add(ForwardRows rows);
  void begin_batch() { in_batch_ = true; }
  /// Writes what was added. If it throws, a part of it may be written.
  void end_batch();

  /// Of the dump rows that this process added.
  int64_t bytes() const { return bytes_; }

  /// Makes the shards that are full; not in a batch. Call it only when the journal holds the forwards whose dump rows
  /// they hold.
  void settle();
  void sync();
  /// Makes shards of all dump rows.
  void finish();

  /// Sets the layout to a `layout_text` that was read from the journal.
  void set_layout(const std::string& layout);

  /// Finds what a process that died left in the folders. Returns for each series the number of dump rows from the first
  /// one to the first gap. `cut` must follow.
  std::map<std::string, int64_t> restore();
  /// `rows`: how many dump rows of each series to keep, counted from its first. Removes all others. Returns how many of
  /// those to keep are missing.
  int64_t cut(const std::map<std::string, int64_t>& rows);

 private:
  class Preparation;
  DumpSeries& series_of(const std::string& name);

  Columns wanted_;
  Place place_;
  bool in_batch_ = false;
  int64_t bytes_ = 0;
  Layout layout_;
  std::map<std::string, DumpSeries> series_;  // by name
};

}  // namespace moetap::plugin
