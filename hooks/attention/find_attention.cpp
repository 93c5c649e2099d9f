#include "hooks/attention/find_attention.h"

#include <algorithm>
#include <map>
#include <set>

#include "hooks/attention/applied_probabilities.h"
#include "hooks/attention/attention_arms.h"
#include "hooks/attention/attention_tokens.h"
#include "hooks/attention/fused_attention.h"
#include "hooks/attention/packed_projection.h"
#include "hooks/attention/score_path.h"
#include "hooks/attention/softmax_forms.h"
#include "hooks/graph/op_traits.h"
#include "hooks/tokens/token_layouts.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

/// Finds the attention of one method graph.
class AttentionSearch {
 public:
  AttentionSearch(const MethodGraph& graph, const ValueOrigins& origins)
      : graph_(graph), origins_(origins), layouts_(graph, origins), axes_(graph, layouts_.flow()) {}

  void run() {
    for (jit::Node* node : graph_.nodes()) {
      if (is_fused_attention(*node)) {
        take_fused(node);
      } else if (const auto softmax = match_softmax(node, graph_)) {
        take_softmax(*softmax);
      }
    }
  }

  std::vector<FoundAttention> attentions() {
    std::vector<FoundAttention> found;
    for (CalledArms& called : join_arms(std::move(arms_), graph_, origins_)) {
      FoundAttention attention;
      attention.arms = std::move(called.arms);
      if (called.call != nullptr) attention.owner = graph_.path_from_model(called.call->path);
      describe_tokens(attention, graph_, origins_, layouts_);
      found.push_back(std::move(attention));
    }
    return found;
  }

  const std::vector<SkippedNode>& skipped() const { return skipped_; }

 private:
  void skip(const jit::Node* node, SkipReason reason) {
    // An arm that never runs is not followed, so nothing is known of what stands there.
    if (layouts_.flow().of(node->output(0)).reached) skipped_.push_back({node, node, reason});
  }

  void take_fused(jit::Node* node) {
    auto arm = fused_arm(node, axes_);
    if (!arm) return skip(node, SkipReason::kUnknownScores);
    if (!origins_.is_activation(arm->query) || !origins_.is_activation(arm->key)) {
      return skip(node, SkipReason::kAttendsToParameters);
    }
    const auto key_rank = axes_.rank(arm->key);
    const bool packed = is_packed_attention(*node);
    if (!packed && key_rank && *key_rank >= 2 && is_stacked(arm->key, arm->key, static_cast<size_t>(*key_rank - 2))) {
      return skip(node, SkipReason::kAttendsToLayers);
    }
    if (arm->layout.empty()) return skip(node, SkipReason::kUnknownScores);
    arms_.push_back(std::move(*arm));
  }

  void take_softmax(const Softmax& softmax) {
    const auto path = find_score_path(softmax.scores, origins_, axes_);
    if (!path) {
      if (is_applied_to_tokens(softmax)) skip(softmax.node, SkipReason::kAttendsToParameters);
      return;
    }
    const auto keys = axes_.dim(softmax.dim, path->places.size());
    if (!keys || (path->places[*keys] != 'x' && path->places[*keys] != 'y')) {
      return skip(softmax.node, SkipReason::kUnknownScores);
    }
    const auto applied = find_applied(softmax.node->output(0), path->places, *keys, origins_, axes_);
    if (!applied || axes_.sums_over_tokens(path->product)) return skip(softmax.node, SkipReason::kSumsOverOthers);
    if (has_sinks(*path) && !applied->sliced) return skip(softmax.node, SkipReason::kUnknownScores);
    const jit::Value* last =
        applied->behind_dropout.empty() ? applied->probabilities : applied->behind_dropout.back()->output(0);
    const bool key_is_right = path->places[*keys] == 'y';
    jit::Value* key = key_is_right ? path->product.right : path->product.left;
    if (is_stacked(key, last, applied->keys)) return skip(softmax.node, SkipReason::kAttendsToLayers);
    const auto layout = axes_.layout(last, applied->places, applied->keys);
    if (!layout) return skip(softmax.node, SkipReason::kUnknownScores);
    if (axes_.is_batch_alone(last, *layout, applied->keys)) return skip(softmax.node, SkipReason::kAttendsToSamples);
    AttentionArm arm;
    arm.node = softmax.node;
    arm.product = path->product.node;
    arm.applied = applied->applied;
    arm.implementation = base_name(*arm.product) == "einsum" ? "einsum" : "eager";
    arm.layout = layout->letters;
    arm.num_heads = layout->num_heads;
    arm.query = key_is_right ? path->product.left : path->product.right;
    arm.key = key;
    arm.probabilities = applied->probabilities;
    arm.behind_dropout = applied->behind_dropout;
    if (applied->places == path->places) arm.scores = scores_before_sinks(*path);
    arms_.push_back(std::move(arm));
  }

  // True for a softmax of scores that parameters gave, whose result sums hidden states: a memory, learned queries.
  bool is_applied_to_tokens(const Softmax& softmax) {
    const auto path = find_score_path(softmax.scores, origins_, axes_, /*one_is_parameter=*/true);
    if (!path) return false;
    const auto keys = axes_.dim(softmax.dim, path->places.size());
    return keys && (path->places[*keys] == 'x' || path->places[*keys] == 'y') &&
           find_applied(softmax.node->output(0), path->places, *keys, origins_, axes_).has_value();
  }

  bool is_stacked(const jit::Value* key, const jit::Value* value, size_t dim) const {
    return keys_are_stacked(key, value, dim, graph_, layouts_.flow());
  }

  const MethodGraph& graph_;
  const ValueOrigins& origins_;
  const TokenLayouts layouts_;
  AttentionAxes axes_;
  std::vector<AttentionArm> arms_;
  std::vector<SkippedNode> skipped_;
};

}  // namespace

std::vector<FoundAttention> find_attention(const MethodGraph& graph, const ValueOrigins& origins,
                                           std::vector<SkippedNode>& skipped) {
  AttentionSearch search(graph, origins);
  search.run();
  skipped.insert(skipped.end(), search.skipped().begin(), search.skipped().end());
  return search.attentions();
}

HookPoint hook_point(const FoundAttention& attention, const std::string& method) {
  HookPoint hook = attention.point(HookKind::kAttention, method);
  hook.implementation = attention.implementation.empty() ? attention.arms[0].implementation : attention.implementation;
  hook.tokens = attention.tokens;
  hook.key_tokens = attention.key_tokens;
  hook.self_attention = attention.self_attention;
  hook.keys_in_buffer = attention.keys_in_buffer;
  hook.num_heads = attention.num_heads;
  hook.num_key_heads = attention.num_key_heads;
  return hook;
}

}  // namespace moetap::hooks
