#include "hooks/attention/insert_attention.h"

#include <unordered_map>

#include "hooks/attention/packed_projection.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The probabilities without the dropout that stands between them and what is done to them.
jit::Value* without_dropout(jit::Graph& graph, const AttentionArm& arm) {
  std::unordered_map<const jit::Value*, jit::Value*> copies;
  jit::Value* last = arm.probabilities;
  for (const jit::Node* node : arm.behind_dropout) {
    jit::Value* before = last;
    bool first = true;
    jit::Node* copy = graph.createClone(const_cast<jit::Node*>(node), [&](jit::Value* input) {
      const bool replaced = first;
      first = false;
      return replaced ? before : input;
    });
    last = graph.insertNode(copy)->output(0);
  }
  return last;
}

// Behind which node the values are as the model uses them.
jit::Node* place_of(const AttentionArm& arm, const InPlaceWrites& writes) {
  if (!arm.behind_dropout.empty()) return arm.behind_dropout.back();
  if (!arm.named_by_hand) return arm.is_fused() ? arm.node : arm.probabilities->node();
  jit::Node* after = writes.ready_after(arm.needed_values());
  TORCH_INTERNAL_ASSERT(after != nullptr, "the values of an attention that a hook spec names are in several branches");
  return after;
}

void insert_arm(const AttentionArm& arm, const HookPoint& hook, const InPlaceWrites& writes, ForwardHandle& handle) {
  jit::Node* after = place_of(arm, writes);
  jit::Graph& graph = *after->owningGraph();
  jit::Value* forward = handle.in(&graph);
  if (after->kind() == jit::prim::Param && forward->node()->owningBlock() == after->owningBlock()) {
    after = forward->node();  // query and key that are arguments
  }
  jit::WithInsertPoint here(after->next());
  jit::Value* none = graph.insertConstant(c10::IValue());
  const auto or_none = [&](jit::Value* value) { return value == nullptr ? none : value; };

  jit::Value *query = none, *key = none, *mask = none, *probabilities = none, *scores = none;
  jit::Value* causal = arm.said_causal ? graph.insertConstant(*arm.said_causal) : arm.causal;
  jit::Value* scale = arm.said_scale ? graph.insertConstant(*arm.said_scale) : or_none(arm.scale);
  if (arm.is_fused()) {
    query = arm.query;
    key = arm.key;
    mask = or_none(arm.mask);
    if (arm.implementation == kPackedImplementation) {
      const PackedQueryAndKey made = insert_packed_projection(arm.node);
      query = made.query;
      key = made.key;
      mask = made.mask;
    }
  } else {
    probabilities = without_dropout(graph, arm);
    if (arm.scores != nullptr && visible_from(arm.scores, after) && writes.is_as_read(arm.scores, after)) {
      scores = arm.scores;
    }
  }
  if (causal == nullptr) causal = graph.insertConstant(false);
  static const jit::Symbol kind = jit::Symbol::fromQualString("moetap::attention");
  jit::Value* id = graph.insertConstant(hook.id);
  jit::Value* num_heads = graph.insertConstant(arm.num_heads);
  jit::Value* layout = graph.insertConstant(arm.layout);
  graph.insertNode(graph.create(kind,
                                {forward, id, query, key, mask, probabilities, scores, or_none(arm.output), scale,
                                 causal, num_heads, layout, or_none(arm.log_sum_exp)},
                                0));
}

}  // namespace

void insert_attention(const FoundAttention& attention, const HookPoint& hook, const InPlaceWrites& writes,
                      ForwardHandle& handle) {
  for (const AttentionArm& arm : attention.arms) insert_arm(arm, hook, writes, handle);
}

}  // namespace moetap::hooks
