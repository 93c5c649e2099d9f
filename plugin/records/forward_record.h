#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "analysis/routers/router_column.h"
#include "analysis/routers/router_sums_values.h"
#include "plugin/records/attention_record.h"
#include "plugin/records/held_router.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

using CustomValue = std::variant<bool, int64_t, double>;

/// One router call of one forward. T = tokens that are not padding, in the model's order. Tensors are on the CPU.
struct RouterRecord {
  int64_t hook = 0;           // HookPoint::id
  int64_t call = 0;           // number of this call among those of the hook in the forward, from 0 (loops)
  analysis::RouterSums sums;  // normalized; one row a sample of the forward; one row in all when `attributed` is false
  bool attributed = true;     // the rows are the forward's samples
  bool text = false;          // the tokens are those of the text [B, S]; its ids, mask and columns apply to them
  // Undefined unless the configuration asks for them (log_per_token, dump, probe_tokens):
  at::Tensor selected;  // int64 [T, K]; -1 unused; E and more: a null expert (HookPoint::null_experts)
  at::Tensor weights;   // float32 [T, K]
  at::Tensor margins;   // float32 [T], w[0] - w[1] (token_outputs.h); undefined: K < 2, or no weights
  at::Tensor logits;    // [n, E] in the model's dtype: n = T with dump full, else the probe's first n <= T tokens
  at::Tensor scores;    // [T, E]: dump full
  at::Tensor input;     // [T, H] in the model's dtype: dump_router_input
  at::Tensor row;       // int64 [T], the sample's place in the forward; -1 unknown
  at::Tensor position;  // int32 [T], column in the forward's [B, S]; where that is unknown, the place in the call
  at::Tensor token_id;  // int32 [T], -1 unknown
};

/// Counts how tokens go from the first-slot expert of one router to that of the next router of the component, over the
/// tokens that both saw.
struct TransitionRecord {
  int64_t from_hook = 0;
  int64_t to_hook = 0;  // the next MoE layer
  analysis::TransitionSums sums;
};

/// A column of a hook that is withheld, since the hook's check of itself found that it does not fit.
struct UnverifiedColumn {
  int64_t hook = 0;                                      // HookPoint::id
  analysis::RouterColumn column = analysis::kIdsColumn;  // is_all_of_hook: all else of it too
  std::string reason;                                    // one line
  bool stops_hook = false;                               // which reported until then
};

/// All that one finished forward reported. The forward hands it to the writer thread. Owns its tensors and memory.
struct ForwardRecord {
  /// How many forwards of the run the record stands for.
  int64_t num_forwards() const { return values_only ? 0 : replays > 0 ? replays : 1; }

  std::shared_ptr<const ModelDescription> model;
  std::string method;
  int64_t index = 0;             // number of the forward in the run, from 0 as they end; dropped ones count
  std::vector<int64_t> samples;  // sample number of each row; size B
  // True: no forward, but values that `Session::log` got after one; `custom` goes to the entries of `samples`. Or what
  // checks have found in forwards that were not recorded: then `samples` is empty.
  bool values_only = false;
  // > 0: no forward, but this many replays of a captured graph; `samples` is empty. See Note [Graphs].
  int64_t replays = 0;
  bool labelled = false;              // the host labelled the forward: its samples may have had forwards before
  bool generation = false;            // phase: false prompt, true generation
  double duration_s = 0;              // wall time from begin to end
  int64_t tokens = 0;                 // as in Counters
  int64_t out_of_range = 0;           // as in Counters
  int64_t unattributed = 0;           // as in Counters
  int64_t unwritten_before = 0;       // forwards of the session that were lost before it; set by the writer
  std::vector<RouterRecord> routers;  // in order of hooks, then of calls
  // The same for calls that are held; empty where `routers` is not. Only a sink that takes held calls gets them.
  std::vector<HeldRouter> held;
  std::shared_ptr<const void> held_memory;
  std::vector<AttentionRecord> attention;  // in order of hooks, then of calls
  std::vector<TransitionRecord> transitions;
  std::vector<UnverifiedColumn> unverified;  // what no earlier record of the model's session has told
  // (component, layer) -> name -> value; component "": the log's component
  std::map<std::pair<std::string, std::string>, std::map<std::string, CustomValue>> custom;
};

}  // namespace moetap::plugin
