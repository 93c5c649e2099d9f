#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "analysis/attention/attention_rows.h"
#include "analysis/attention/attention_sums.h"
#include "plugin/records/attention_record.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {

inline constexpr int64_t kAttentionHeads = 2;
inline constexpr int64_t kAttentionRegions = 5;

/// Adds an attention layer for each (component, layer). Their hooks stand behind the model's other ones.
inline void add_attention_hooks(ModelDescription& model,
                                const std::vector<std::pair<std::string, std::string>>& layers) {
  for (const auto& [component, layer] : layers) {
    hooks::HookPoint hook;
    hook.id = static_cast<int64_t>(model.hooks.size());
    hook.component = component;
    hook.layer = layer;
    hook.name = component + ".layers." + layer + ".attn";
    hook.kind = hooks::HookKind::kAttention;
    hook.method = "forward";
    hook.implementation = "eager";
    hook.self_attention = true;
    model.hooks.push_back(hook);
  }
}

/// Causal probabilities [batch, kAttentionHeads, length, length], the same for the same seed.
inline at::Tensor seeded_probabilities(int64_t seed, int64_t batch, int64_t length) {
  at::manual_seed(static_cast<uint64_t>(seed));
  const at::Tensor future = at::ones({length, length}, at::kBool).triu(1);
  return at::randn({batch, kAttentionHeads, length, length}).masked_fill(future, -INFINITY).softmax(-1);
}

inline analysis::AttentionRows attention_rows_of(const at::Tensor& probabilities, bool matrix = false) {
  const int64_t batch = probabilities.size(0), length = probabilities.size(2);
  analysis::AttentionCall call;
  call.probabilities = probabilities;
  call.scores = probabilities.log();
  analysis::AttentionTokens tokens;
  tokens.query_position = tokens.key_position = at::arange(length, at::kInt).expand({batch, length}).contiguous();
  tokens.num_regions = kAttentionRegions;
  return analysis::measure_attention(call, tokens, {matrix});
}

struct SyntheticAttention {
  int64_t hook = 0;
  bool attributed = true;
  int64_t call = 0;
  bool matrix = false;
  bool as_rows = false;  // what experts attend to is recorded as rows, not as sums
};

/// What an attention layer reports about probabilities; `router`: what goes with it, of the same tokens; null: nothing.
inline AttentionRecord observe_attention(const SyntheticAttention& attention, const at::Tensor& probabilities,
                                         const RouterRecord* router = nullptr) {
  const int64_t batch = probabilities.size(0);
  const analysis::AttentionRows rows = attention_rows_of(probabilities, attention.matrix);
  AttentionRecord record;
  record.hook = attention.hook;
  record.call = attention.call;
  record.attributed = attention.attributed;
  record.num_key_heads = 1;
  record.sums = analysis::empty_attention_sums(kAttentionHeads, kAttentionRegions, rows.self, /*num_experts=*/0,
                                               attention.attributed ? batch : 1);
  add_rows(record.sums, rows, attention.attributed ? at::arange(batch, at::kLong) : at::zeros({batch}, at::kLong));
  if (router != nullptr && attention.as_rows) {
    ExpertAttentionRecord experts;
    experts.router_hook = router->hook;
    experts.rows = analysis::expert_rows(rows, router->sums.num_experts, at::arange(rows.num_lines(), at::kLong),
                                         router->selected, router->weights);
    record.experts.push_back(std::move(experts));
  } else if (router != nullptr) {
    ExpertAttentionRecord experts{router->hook, analysis::empty_attention_sums(kAttentionHeads, kAttentionRegions,
                                                                               rows.self, router->sums.num_experts, 1)};
    add_experts(experts.sums, rows, at::zeros({batch}, at::kLong), router->selected, router->weights);
    record.experts.push_back(std::move(experts));
  }
  for (int64_t sequence = 0; attention.matrix && sequence < batch; ++sequence) {
    record.matrices.push_back({attention.attributed ? sequence : -1, sequence, 0, rows.matrix[sequence]});
  }
  return record;
}

}  // namespace moetap::plugin
