#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "analysis/routers/transition_sums.h"
#include "plugin/journal/held_rows.h"
#include "plugin/journal/logged_attention.h"
#include "plugin/journal/logged_router.h"
#include "plugin/records/config.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/run_layers.h"

namespace moetap::plugin {

// What the journal keeps of a forward: all that the log and the summary are made of. A layer is its place in the run's
// LayerTable of its kind. Each kind of hook has a file of its own: logged_router.h, logged_attention.h.

/// What one forward gives to one log entry.
struct LogPart {
  int64_t previous = -1;         // place in the journal of the entry's part before this one; -1: none
  int64_t shared = -1;           // place of the hooks that belong to every part of the forward; -1: none
  std::vector<int64_t> samples;  // of the entry: one sample; with log_entries: forward all samples of the forward
  bool values_only = false;      // no forward: the part holds only `custom`
  double duration_s = 0;         // the part's share of the forward
  std::vector<LoggedRouter> routers;
  std::vector<HeldRows> held;  // routers that nobody has measured so far
  std::vector<LoggedAttention> attention;
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
  int64_t forwards = 1;     // how many forwards it sums up; 0: values only
  bool generation = false;  // phase of its tokens: false prompt, true generation
  std::vector<RouterTotal> routers;
  std::vector<Transition> transitions;
  std::vector<HeldRows> held;  // of all parts
  std::vector<AttentionTotal> attention;
  std::vector<ExpertAttentionTotal> attention_of_experts;
  /// True if the parts of the forward hold every router and attention: see Note [Sums stand once in a frame].
  bool sums_in_parts = false;
};

struct LoggedForward {
  SummaryPart summary;
  LogPart shared;              // hooks whose tokens cannot be told apart by sample, in a forward of several samples
  std::vector<LogPart> parts;  // one for each sample; with log_entries: forward one
};

/// Splits what a forward recorded into its parts. `layers` must know the record's hooks. All parts get an even share of
/// the forward's `duration_s`, so that the entries add up to the time that the forwards took.
LoggedForward log_forward(const ForwardRecord& record, const RunLayers& layers, const Config& config);

std::string encode(const LogPart& part);
LogPart decode_log_part(std::string_view bytes);
/// Only the samples of an encoded part.
std::vector<int64_t> decode_samples(std::string_view bytes);

/// Moves what is held to `routers`.
void measure_held(LogPart& part);

/// With `sums_in_parts` it encodes only the pairs of the routers' sums, and what is shared of the attention's.
std::string encode(const SummaryPart& part);
/// How many forwards an encoded part sums up.
int64_t summed_forwards(std::string_view bytes);
/// `shared` and `parts` are those of the same forward: they give the sums that `encode` left out, and what is held.
SummaryPart decode_summary_part(std::string_view bytes, const LogPart& shared, const std::vector<LogPart>& parts);

}  // namespace moetap::plugin
