#pragma once

#include "plugin/formats/json_key.h"
#include "plugin/records/description_keys.h"

namespace moetap::plugin {

// The catalogue: every key of the log, the results, the summary, the manifest and the journal, once. Elsewhere are the
// keys of models and hooks (description_keys.h), of counts (counters.h), of the dump (dump/dump_keys.h) and of metrics
// (the tables of analysis/routers/router_metrics.h and analysis/attention/attention_metrics.h). E = experts; "or null":
// there was nothing to measure.
namespace keys {

// <task>.json, as LibMoE's evaluation writes it.
inline constexpr JsonKey kArgs{"args", "object", ""};
inline constexpr JsonKey kModelConfigs{"model_configs", "object", ""};
inline constexpr JsonKey kTask{"task", "text", ""};
inline constexpr JsonKey kTime{"time", "text %m%d_%H%M", "local time"};
inline constexpr JsonKey kLogs{"logs", "list of objects", ""};
inline constexpr JsonKey kDocId{"doc_id", "integer", ""};
inline constexpr JsonKey kTarget{"target", "any", ""};
inline constexpr JsonKey kDoc{"doc", "object", ""};
inline constexpr JsonKey kResponses{"resps", "list", ""};
inline constexpr JsonKey kFilteredResponses{"filtered_resps", "list", ""};
inline constexpr JsonKey kDomain{"domain", "list", ""};
inline constexpr JsonKey kLogsVision{"logs_metrics_vision", "[[{layer: object}]]", ""};
inline constexpr JsonKey kLogsMlp{"logs_metrics_mlp", "[[object]]", ""};
inline constexpr JsonKey kLogsMoe{"logs_metrics_moe", "{component: {layer: object}}", ""};
inline constexpr JsonKey kTimeInference{"time_inference", "real, written with a decimal point", "seconds"};
inline constexpr JsonKey kMmProjector{"mm_projector", "object", ""};

// results.json
inline constexpr JsonKey kResults{"results", "object", ""};
inline constexpr JsonKey kModelArgs{"model_args", "text with the model's name as .../NAME/NAME,...", ""};

// summary.json
inline constexpr JsonKey kForwards{"forwards", "integer", ""};
inline constexpr JsonKey kComponents{"components", "{component: {layer: object}}", ""};
inline constexpr JsonKey kAttention{"attention", "{component: {layer: object}}; in the log an object in a layer", ""};
inline constexpr JsonKey kExperts{"experts", "object; a list of them where several routers go with a layer", ""};
inline constexpr JsonKey kRouter{"router", "text: the name of the router", ""};
inline constexpr JsonKey kTransition{"transition", "[E][E of the next layer] integers or null", "tokens"};
inline constexpr JsonKey kPhases{"phases", "{prompt, generation: {forwards, components}}; where forwards generated",
                                 ""};
inline constexpr JsonKey kPrompt{"prompt", "object", ""};
inline constexpr JsonKey kGeneration{"generation", "object", ""};

// manifest.json
inline constexpr JsonKey kOtherModels{"other_models", "list of objects with model, sha256, hooks, skipped", ""};
inline constexpr JsonKey kVersions{"versions", "object", ""};
inline constexpr JsonKey kMoetap{"moetap", "text; in the log an object of counters", ""};
inline constexpr JsonKey kLibTorch{"libtorch", "text", ""};
inline constexpr JsonKey kDevice{"device", "text", ""};
inline constexpr JsonKey kConfig{"config", "object", ""};
inline constexpr JsonKey kWorldSize{"world_size", "integer", ""};
inline constexpr JsonKey kReported{"reported", "true or false: the hook is in some recorded forward", ""};
inline constexpr JsonKey kRunLayer{"run_layer", "text: the layer in the run's files; null: never reported", ""};
inline constexpr JsonKey kRouters{"routers", "list of names: the routers that go with an attention layer", ""};
inline constexpr JsonKey kUnverified{"unverified", "{column: reason}; absent: no check of the hook failed", ""};
inline constexpr JsonKey kCounters{"counters", "object of integers: those of kCounters (counters.h), not_finite", ""};
inline constexpr JsonKey kNotFinite{"not_finite", "integer", "values left out of the log"};
inline constexpr JsonKey kNotices{"notices", "{text: integer}", "times"};
inline constexpr JsonKey kTimes{"times", "object", ""};
inline constexpr JsonKey kOpened{"opened", "text, ISO 8601", "UTC"};
inline constexpr JsonKey kClosed{"closed", "text, ISO 8601", "UTC"};
inline constexpr JsonKey kSeconds{"seconds", "real", "seconds"};
inline constexpr JsonKey kResumed{"resumed", "integer; absent: never", "times"};
inline constexpr JsonKey kRecovered{"recovered", "true; absent: the run's own process wrote the files", ""};
inline constexpr JsonKey kRecoveredFrom{"recovered_from", "text: the process that died", ""};
inline constexpr JsonKey kLost{"lost", "object with journal_bytes, forwards (at least), dump_rows", ""};
inline constexpr JsonKey kMissing{"missing", "list of lines: what a merge left out; absent: nothing", ""};
inline constexpr JsonKey kJournalBytes{"journal_bytes", "integer", "bytes"};
inline constexpr JsonKey kDumpRows{"dump_rows", "integer", "rows"};

// Frames of the journal.
inline constexpr JsonKey kDirectory{"directory", "text: relative paths of `config` are taken from here", ""};
inline constexpr JsonKey kColumn{"column", "text: logits, scores, weights or ids", ""};
inline constexpr JsonKey kRefused{"refused", "{text: integer}: values left out of the log, by reason", "times"};
inline constexpr JsonKey kPlace{"place", "integer: the layer's place in the run's table", ""};

}  // namespace keys
}  // namespace moetap::plugin
