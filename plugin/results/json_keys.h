#pragma once

#include "plugin/formats/json_key.h"
#include "plugin/records/description_keys.h"

namespace moetap::plugin {

// The catalogue: every key of the log, the results, the summary, the manifest and the journal, once; those of models
// and hooks stand in description_keys.h, those of counts in counters.h. Types: E = experts, N = tokens, K = slots. "or
// null": there was nothing to measure.
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
inline constexpr JsonKey kEntropyWeightTopk{"entropy_weight_topk", "real", "nats"};
inline constexpr JsonKey kEntropyWeightAll{"entropy_weight_all", "real", "nats"};
inline constexpr JsonKey kDistExpertsTop1{"dist_experts_top1", "[E] integers", "tokens"};
inline constexpr JsonKey kDistExpertsTop2{"dist_experts_top2", "[E] integers", "selections"};
inline constexpr JsonKey kRouterMargin{"router_magine", "[N] reals", ""};  // the spelling is the format's
inline constexpr JsonKey kSelectedExperts{"selected_experts", "[N * K] integers, token-major", "expert ids"};

// results.json
inline constexpr JsonKey kResults{"results", "object", ""};
inline constexpr JsonKey kModelArgs{"model_args", "text with the model's name as .../NAME/NAME,...", ""};

// summary.json
inline constexpr JsonKey kForwards{"forwards", "integer", ""};
inline constexpr JsonKey kComponents{"components", "{component: {layer: object}}", ""};
inline constexpr JsonKey kAttention{"attention", "object", ""};
inline constexpr JsonKey kTokens{"tokens", "integer", "tokens"};
inline constexpr JsonKey kDroppedTokens{"dropped_tokens", "integer", "tokens"};
inline constexpr JsonKey kInvalidIds{"invalid_ids", "integer", "slots"};
inline constexpr JsonKey kOutOfRangeTerms{"out_of_range_terms", "integer", "values"};
inline constexpr JsonKey kSelectedCount{"selected_count", "[E] integers", "selections"};
inline constexpr JsonKey kZeroWeightCount{"zero_weight_count", "[E] integers", "selections"};
inline constexpr JsonKey kTop1Count{"top1_count", "[E] integers", "tokens"};
inline constexpr JsonKey kMeanProb{"mean_prob", "[E] reals or null", ""};
inline constexpr JsonKey kMeanWeight{"mean_weight", "[E] reals, each or null", ""};
inline constexpr JsonKey kUsage{"usage", "[E] reals or null", "selections a token"};
inline constexpr JsonKey kEntropyAll{"entropy_all", "real or null", "nats"};
inline constexpr JsonKey kEntropyTopk{"entropy_topk", "real or null", "nats"};
inline constexpr JsonKey kEntropyAllBits{"entropy_all_bits", "real or null", "bits"};
inline constexpr JsonKey kEntropyRatio{"entropy_ratio", "real or null", ""};
inline constexpr JsonKey kScoreEntropy{"score_entropy", "real or null; sigmoid routers only", "nats"};
inline constexpr JsonKey kMargin{"margin", "real or null", ""};
inline constexpr JsonKey kRouterZLoss{"router_z_loss", "real or null", ""};  // also in the log
inline constexpr JsonKey kBalanceLoss{"balance_loss", "real or null", ""};   // also in the log
inline constexpr JsonKey kLoadCv{"load_cv", "real", ""};
inline constexpr JsonKey kMaxViolation{"max_violation", "real or null", ""};
inline constexpr JsonKey kGini{"gini", "real or null", ""};
inline constexpr JsonKey kJain{"jain", "real or null", ""};
inline constexpr JsonKey kLoadRatio{"load_ratio", "[E] reals or null", ""};
inline constexpr JsonKey kActiveExperts{"active_experts", "integer", "experts"};
inline constexpr JsonKey kDeadExperts{"dead_experts", "integer", "experts"};
inline constexpr JsonKey kUnderusedExperts{"underused_experts", "integer", "experts"};
inline constexpr JsonKey kCoactivation{"coactivation", "[E][E] integers or null", "tokens"};
inline constexpr JsonKey kTransition{"transition", "[E][E of the next layer] integers or null", "tokens"};
inline constexpr JsonKey kRepeatRate{"repeat_rate", "real or null", ""};
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
inline constexpr JsonKey kRunLayer{"run_layer", "text: the layer in the run's files; null: never reported", ""};
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
inline constexpr JsonKey kJournalBytes{"journal_bytes", "integer", "bytes"};
inline constexpr JsonKey kDumpRows{"dump_rows", "integer", "rows"};

// Frames of the journal.
inline constexpr JsonKey kPlace{"place", "integer: the layer's place in the run's table", ""};

}  // namespace keys
}  // namespace moetap::plugin
