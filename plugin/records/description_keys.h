#pragma once

#include "plugin/formats/json_key.h"

namespace moetap::plugin::keys {

// Keys that describe a model and its hooks: in the text inside an instrumented model, in `moetap inspect --json`, in
// the manifest, and in other files that hold the same things. "or null": the graph does not fix it before a run.
inline constexpr JsonKey kSchemaVersion{"schema_version", "integer", ""};
inline constexpr JsonKey kInstance{"instance", "text, 32 hexadecimal digits", ""};
inline constexpr JsonKey kModel{"model", "text: the file's path as given", ""};
inline constexpr JsonKey kSha256{"sha256", "text, hexadecimal", ""};
inline constexpr JsonKey kIdentity{"identity", "text: the same for copies of one model", ""};
inline constexpr JsonKey kMethods{"methods", "{method: {arguments: [text]}}", ""};
inline constexpr JsonKey kArguments{"arguments", "list", ""};  // those of a method; in the log: of a sample
inline constexpr JsonKey kMethod{"method", "text", ""};
inline constexpr JsonKey kHooks{"hooks", "list of objects; in the manifest each with run_layer", ""};
inline constexpr JsonKey kSkipped{"skipped",
                                  "list of objects with node and reason; kind: attention, absent for routers", ""};
inline constexpr JsonKey kNode{"node", "text: the node of the graph", ""};
inline constexpr JsonKey kReason{"reason", "text", ""};
inline constexpr JsonKey kId{"id", "integer", ""};
inline constexpr JsonKey kHook{"hook", "integer: its id", ""};
inline constexpr JsonKey kLayer{"layer", "text: the layer's id", ""};
inline constexpr JsonKey kName{"name", "text: the module's path", ""};
inline constexpr JsonKey kKind{"kind", "text: router or attention", ""};
inline constexpr JsonKey kComponent{"component", "text", ""};
inline constexpr JsonKey kNumExperts{"num_experts", "integer or null", ""};
inline constexpr JsonKey kNullExperts{"null_experts", "integer, absent for 0: ids that stand for no routed expert", ""};
inline constexpr JsonKey kTopK{"top_k", "integer or null", ""};
inline constexpr JsonKey kScoring{"scoring", "text", ""};
inline constexpr JsonKey kTokens{"tokens", "object or null: the layout of the router's rows", ""};
inline constexpr JsonKey kScoresArePlain{"scores_are_plain", "bool: its scores are what a scoring function gave", ""};
inline constexpr JsonKey kWeightsAreScaledScores{
    "weights_are_scaled_scores", "bool: its weights are its scores times factors of tokens, slots and experts", ""};
inline constexpr JsonKey kWeightsHaveFactorsOfExperts{"weights_have_factors_of_experts",
                                                      "bool: some of these factors are of experts or slots", ""};
inline constexpr JsonKey kImplementation{"implementation", "text: sdpa, eager, einsum, mha", ""};
inline constexpr JsonKey kRegions{"regions", "list of names: of a sequence, for attention", ""};
inline constexpr JsonKey kNumHeads{"num_heads", "integer or null: heads of queries", ""};
inline constexpr JsonKey kNumKeyHeads{"num_key_heads", "integer or null: heads of keys", ""};
inline constexpr JsonKey kKeyTokens{"key_tokens", "object or null: the layout of an attention's keys", ""};
inline constexpr JsonKey kSelfAttention{"self_attention", "bool: keys and queries are the same tokens", ""};
inline constexpr JsonKey kKeysInBuffer{"keys_in_buffer", "bool: the keys are a static cache", ""};
inline constexpr JsonKey kRank{"rank", "integer", ""};

}  // namespace moetap::plugin::keys
