#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "plugin/dump/attention_series.h"
#include "plugin/dump/dump_series.h"
#include "plugin/records/config.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/layer_table.h"

namespace moetap::plugin {

// Note [Attention in full]
// With `attention: full` a series of shards for each component, COMPONENT.attention, holds a matrix for each layer,
// sample and forward: LAYER/SAMPLE/Q0, where Q0 is the position of the first query. It is the mean over the heads of
// the probabilities as the model used them, of tokens that are no padding; a row's sum is below 1 where the rest went
// to a sink. Sequences whose samples are not known are named LAYER/-1.FORWARD.SEQUENCE/Q0; in a loop the calls after
// the first have a fourth part, the number of the call: LAYER/SAMPLE/Q0/CALL.

/// The matrices of a run. Used by one thread. Errors are std::runtime_error with one line.
class AttentionDump {
 public:
  struct Place {
    std::string dump_folder;
    std::string journal_folder;
    int64_t rank = 0;
    int64_t max_shard_bytes = kMaxShardBytes;
  };
  explicit AttentionDump(Place place) : place_(std::move(place)) {}

  /// The metadata of the shards of a component's series; `layers`: those of the attention.
  static AttentionSeries::Metadata metadata(const std::string& series, const LayerTable& layers, const Config& config);

  /// The matrices of one forward. Once they are prepared, only the disk can refuse them.
  struct ForwardMatrices {
    struct OfSeries {
      std::vector<AttentionMatrix> matrices;
      AttentionSeries::Metadata metadata;
    };
    std::map<std::string, OfSeries> series;
    std::map<std::string, int64_t> num_matrices;  // series that gets some -> how many it has with them
  };
  /// `layers`, of the attention, must know the record's hooks. Changes nothing.
  ForwardMatrices prepare(const ForwardRecord& record, const LayerTable& layers, const Config& config) const;
  /// Appends what `prepare` gave. Nothing may be added between the two.
  void add(const ForwardMatrices& forward);

  /// As those of DumpWriter; a batch only puts `settle` off.
  void begin_batch() { in_batch_ = true; }
  void end_batch() { in_batch_ = false; }
  int64_t bytes() const { return bytes_; }
  void settle();
  void sync();
  void finish();
  std::map<std::string, int64_t> restore();
  int64_t cut(const std::map<std::string, int64_t>& rows);

 private:
  AttentionSeries& series_of(const std::string& name);

  Place place_;
  bool in_batch_ = false;
  int64_t bytes_ = 0;
  std::map<std::string, AttentionSeries> series_;  // by name
};

}  // namespace moetap::plugin
