#include "hooks/graph/in_place_writes.h"

#include <torch/csrc/jit/ir/constants.h>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The value whose memory a value may share, seen through views and in-place operators.
const jit::Value* alias_root(const jit::Value* value) {
  while (!value->node()->inputs().empty() && value->node()->kind() != jit::prim::Param) {
    const jit::Node* node = value->node();
    const OpKind kind = op_kind(*node);
    const bool view = kind == OpKind::kReshape || kind == OpKind::kMoveAxis || kind == OpKind::kSlice ||
                      kind == OpKind::kSelect || kind == OpKind::kCopy || kind == OpKind::kRepeat;
    if (!view && !is_in_place(*node)) break;
    value = node->input(0);
  }
  return value;
}

}  // namespace

InPlaceWrites::InPlaceWrites(const MethodGraph& graph) : graph_(graph) {
  for (jit::Node* node : graph.nodes()) {
    if (is_in_place(*node)) writers_[alias_root(node->input(0))].push_back(node);
  }
}

jit::Node* InPlaceWrites::ready_after(const std::vector<jit::Value*>& values) const {
  jit::Node* after = values[0]->node();
  for (jit::Value* value : values) {
    if (graph_.order(value->node()) > graph_.order(after)) after = value->node();
  }
  for (const jit::Value* value : values) {
    if (!visible_from(value, after)) return nullptr;
  }
  if (after->kind() == jit::prim::Param) after = after->owningBlock()->param_node();
  for (const jit::Value* value : values) {
    const auto found = writers_.find(alias_root(value));
    if (found == writers_.end()) continue;
    for (jit::Node* writer : found->second) {
      // A writer in a nested block has changed the value when its outermost owner in this block is done.
      jit::Node* place = writer;
      while (place != nullptr && place->owningBlock() != after->owningBlock()) {
        place = place->owningBlock()->owningNode();
      }
      if (place == nullptr || graph_.order(place) <= graph_.order(after)) continue;
      if (!applied_before(value, place)) after = place;
    }
  }
  return after;
}

// True if the value, or a view of it, is used before `node` for more than being looked at or changed in place.
bool InPlaceWrites::applied_before(const jit::Value* value, const jit::Node* node) const {
  for (const auto& use : value->uses()) {
    if (graph_.order(use.user) >= graph_.order(node) || is_in_place(*use.user)) continue;
    switch (op_kind(*use.user)) {
      case OpKind::kReduce:
      case OpKind::kCompare:
      case OpKind::kOther:
        break;
      case OpKind::kReshape:
      case OpKind::kMoveAxis:
      case OpKind::kSlice:
      case OpKind::kSelect:
        if (applied_before(use.user->output(0), node)) return true;
        break;
      default:
        return true;
    }
  }
  return false;
}

jit::Value* InPlaceWrites::as_made(jit::Value* value, const jit::Node* until) const {
  if (value == nullptr) return nullptr;
  const auto found = writers_.find(alias_root(value));
  if (found == writers_.end()) return value;
  bool changed = false;
  for (const jit::Node* writer : found->second) {
    const int64_t order = graph_.order(writer);
    changed = changed || (order > graph_.order(value->node()) && order <= graph_.order(until));
  }
  if (!changed) return value;
  jit::Node* made = value->node();
  jit::WithInsertPoint here(made->next());
  jit::Graph& graph = *made->owningGraph();
  jit::Value* none = graph.insertConstant(c10::IValue());
  return graph.insertNode(graph.create(jit::aten::clone, {value, none}, 1))->output();
}

}  // namespace moetap::hooks
