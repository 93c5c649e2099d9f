#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "analysis/routers/transition_sums.h"
#include "plugin/journal/logged_router.h"
#include "plugin/records/config.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/layer_table.h"

namespace moetap::plugin {

// What the journal keeps of a forward: all that the log and the summary are made of. Layers are places in the run's
// LayerTable. What is of one kind of hook stands in that kind's file: logged_router.h.

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
  int64_t forwards = 1;     // that it sums up; 0: values only
  bool generation = false;  // phase of its tokens: false prompt
  std::vector<RouterTotal> routers;
  std::vector<Transition> transitions;
  /// The parts of the forward hold every router: see Note [Sums stand once in a frame].
  bool sums_in_parts = false;
};

struct LoggedForward {
  SummaryPart summary;
  LogPart shared;              // routers whose tokens cannot be told apart by sample, in a forward of several samples
  std::vector<LogPart> parts;  // one a sample, or with log_entries: forward one
};

/// Takes apart what a forward recorded. `layers` must know its hooks. `duration_s` of a sample's part is its even share
/// of the forward, so that the entries sum up to the time that the run took.
LoggedForward log_forward(const ForwardRecord& record, const LayerTable& layers, const Config& config);

std::string encode(const LogPart& part);
LogPart decode_log_part(std::string_view bytes);

/// With `sums_in_parts` only the pairs of its routers.
std::string encode(const SummaryPart& part);
/// Takes from `shared` and `parts`, those of its forward, what is not encoded.
SummaryPart decode_summary_part(std::string_view bytes, const LogPart& shared, const std::vector<LogPart>& parts);

}  // namespace moetap::plugin
