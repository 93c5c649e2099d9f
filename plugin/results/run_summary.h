#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "analysis/routers/router_sums.h"
#include "analysis/routers/transition_sums.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/journal/logged_forward.h"
#include "plugin/records/attention_regions.h"
#include "plugin/records/layer_table.h"

namespace moetap::plugin {

/// The sums of a whole run, and the file with their metrics. Prompt and generation are kept apart; the file also has
/// their total.
class RunSummary {
 public:
  void add(const SummaryPart& part);
  /// Of a router over both phases, without the table of pairs; undefined: it saw no token.
  analysis::RouterSums sums_without_pairs(size_t layer) const;
  /// What `add` makes the same summary of, in pieces of one layer each.
  std::vector<SummaryPart> parts() const;
  int64_t forwards() const { return prompt_.forwards + generation_.forwards; }

  /// Writes `summary.json`: every layer of the tables, by component; where forwards generated, the same by phase.
  /// Throws std::runtime_error if it cannot be written.
  void write(const std::string& path, const std::string& task, const RunLayers& layers,
             const AttentionRegions& regions) const;

  /// The routers that went with an attention layer, by their places in the table.
  std::vector<size_t> routers_of(size_t attention_layer) const;

 private:
  struct Phase {
    void merge(const Phase& other);
    void add(const std::vector<HeldRows>& held);
    void add(const AttentionTotal& total);
    void add(const ExpertAttentionTotal& total);
    /// The transitions from the layer `places[from]` to the next one in `places` that ran; null: none. `places`: a
    /// component's layers in order.
    const analysis::TransitionSums* next_of(const std::vector<size_t>& places, size_t from) const;

    int64_t forwards = 0;
    std::map<size_t, analysis::RouterSums> sums;                                     // by layer; one row with pairs
    std::map<std::pair<size_t, size_t>, analysis::TransitionSums> transitions;       // from layer, to layer
    std::map<size_t, AttentionTotal> attention;                                      // by layer
    std::map<std::pair<size_t, size_t>, ExpertAttentionTotal> attention_of_experts;  // by layer, router
  };
  static void write_components(AtomicFile& file, const Phase& phase, const LayerTable& layers);
  static void write_attention(AtomicFile& file, const Phase& phase, const RunLayers& layers,
                              const AttentionRegions& regions);

  Phase prompt_, generation_;
};

}  // namespace moetap::plugin
