#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "analysis/routers/router_sums.h"
#include "analysis/routers/transition_sums.h"
#include "plugin/records/config.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/layer_table.h"

namespace moetap::plugin {

// What the journal keeps of a forward: all that the log and the summary are made of. Layers are places in the run's
// LayerTable.

struct LoggedRouter {
  size_t layer = 0;
  analysis::RouterSums sums;      // without pairs; one row, or with log_entries: forward a row a sample
  std::vector<int32_t> selected;  // [N * K] token-major; -1 unused; empty: not logged
  std::vector<float>
      margins;  // [N], w[0] - w[1]; with log_entries: forward of the first sample only; empty: not logged
};

/// What one forward gives to one log entry.
struct LogPart {
  int64_t previous = -1;         // where the entry's part before this one lies in the journal; -1: none
  int64_t shared = -1;           // where routers lie that belong to every part of the forward; -1: none
  std::vector<int64_t> samples;  // of the entry: one, or with log_entries: forward all of the forward
  bool values_only = false;      // only `custom`: no forward
  double duration_s = 0;         // the part's share of the forward
  std::vector<LoggedRouter> routers;
  // (component, layer) -> name -> value; component "": the log's component
  std::map<std::pair<std::string, std::string>, std::map<std::string, CustomValue>> custom;
};

/// What one forward gives to the run's summary.
struct SummaryPart {
  struct Transition {
    size_t from = 0;  // layer
    size_t to = 0;    // layer
    analysis::TransitionSums sums;
  };
  int64_t forwards = 1;               // that it sums up; 0: values only
  bool generation = false;            // phase of its tokens: false prompt
  std::vector<LoggedRouter> routers;  // one row with pairs; nothing by token
  std::vector<Transition> transitions;
};

struct LoggedForward {
  SummaryPart summary;
  LogPart shared;              // routers whose tokens cannot be told apart by sample, in a forward of several samples
  std::vector<LogPart> parts;  // one a sample, or with log_entries: forward one
};

/// Takes apart what a forward recorded. `duration_s` of a row's part is its even share of the forward, so that the
/// entries sum up to the time that the run took.
LoggedForward log_forward(const ForwardRecord& record, LayerTable& layers, const Config& config);

std::string encode(const LogPart& part);
LogPart decode_log_part(std::string_view bytes);
/// Only `previous`, `shared`, `samples` and `values_only`.
LogPart decode_log_part_head(std::string_view bytes);

std::string encode(const SummaryPart& part);
SummaryPart decode_summary_part(std::string_view bytes);

/// Adds `from` to `into`, row by row, although the number of slots or of rows may differ between forwards.
void add_sums(analysis::RouterSums& into, const analysis::RouterSums& from);

}  // namespace moetap::plugin
