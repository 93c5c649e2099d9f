#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hooks/points/token_layout.h"

namespace moetap::hooks {

enum class HookKind { kRouter, kAttention };

inline const char* to_string(HookKind kind) {
  return kind == HookKind::kRouter ? "router" : "attention";
}

/// The kinds of hooks that are looked for in a model.
enum class HookKinds { kRouters, kRoutersAndAttention };

/// A call site of the inlined graph of a method, at which the model reports. Plain data: safe to copy and share.
struct HookPoint {
  int64_t id = 0;     // place in the order of execution over all methods
  std::string layer;  // layer id: decimal digits or "mm_projector"; unique in (method, component, kind)
  // Path of the module that owns the projection, or that computes the attention; `PATH#1` for a second call site.
  std::string name;
  HookKind kind = HookKind::kRouter;
  std::string method;                  // exported method that reaches the site
  std::string component;               // "language_model", "vision_tower", ...
  std::optional<int64_t> num_experts;  // routed experts; empty where the graph does not fix them before a run
  std::optional<int64_t> top_k;        // experts a token; empty where the graph does not fix it
  std::string scoring;                 // "softmax", "sigmoid", "sigmoid_bias", "softmax_topk", "none", ...
  TokenLayout tokens = {};             // what the rows of its tensors are
  // Ids that stand for no routed expert: null experts (zero, copy, constant), shared ones, slots without an expert.
  // Columns of the logits that no projection gives, and ids of `num_experts` and more that the model writes.
  int64_t null_experts = 0;
  // What the graph shows, for the hook's check of itself; see hooks/routers/scaled_scores.h.
  bool scores_are_plain = false, weights_are_scaled_scores = false, weights_have_factors_of_experts = false;
  // Of an attention; `tokens` are then its queries.
  std::string implementation = {};  // "sdpa", "eager", "einsum", "mha", ...
  TokenLayout key_tokens = {};
  bool self_attention = false;  // its keys are made of the same tokens as its queries
  bool keys_in_buffer = false;  // they are written into a buffer that is as long in each forward: a static cache
  std::optional<int64_t> num_heads = {};      // of queries; empty where the graph does not fix it
  std::optional<int64_t> num_key_heads = {};  // the same
};

/// Something that looked like a hook point and was not hooked.
struct SkippedSite {
  std::string node;    // the node as the graph prints it, one line
  std::string reason;  // "indexes tokens, not experts"
  HookKind kind = HookKind::kRouter;
};

struct Discovery {
  std::vector<HookPoint> hooks;      // in order of execution; hooks[i].id == i
  std::vector<SkippedSite> skipped;  // in graph order
};

}  // namespace moetap::hooks
