#include "hooks/graph/in_place_writes.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The value whose memory a value may share, seen through views and in-place operators.
const jit::Value* alias_root(const jit::Value* value) {
  while (!value->node()->inputs().empty() && value->node()->kind() != jit::prim::Param) {
    const jit::Node* node = value->node();
    if (!may_be_view(*node) && !is_in_place(*node)) break;
    value = node->input(0);
  }
  return value;
}

// True for ids at which scores are gathered: that makes weights, and experts get the ids later, with what is written
// into them until then. (What is gathered of experts' outputs has ids of more dimensions, a view.)
bool gathers_by(const jit::Use& use) {
  return op_kind(*use.user) == OpKind::kGather && use.offset == 2;
}

}  // namespace

bool is_written(const jit::Value* value) {
  return std::any_of(value->uses().begin(), value->uses().end(), [](const jit::Use& use) {
    if (use.offset != 0) return false;
    return is_in_place(*use.user) || (may_be_view(*use.user) && is_written(use.user->outputs()[0]));
  });
}

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

bool InPlaceWrites::makes(const jit::Node* node, const jit::Value* value) const {
  if (op_kind(*node) == OpKind::kPick) return false;
  const auto found = writers_.find(alias_root(value));
  if (found == writers_.end() || graph_.order(node) > graph_.order(found->second.back())) return false;
  bool makes_it = false;
  for (const jit::Value* output : node->outputs()) {
    for (const auto& use : output->uses()) {
      const bool writes = std::find(found->second.begin(), found->second.end(), use.user) != found->second.end();
      if (!writes && !makes(use.user, value)) return false;
      makes_it = true;
    }
  }
  return makes_it;
}

// True if the value, or a view of it, is used before `node` for more than being looked at or changed in place.
bool InPlaceWrites::applied_before(const jit::Value* value, const jit::Node* node) const {
  for (const auto& use : value->uses()) {
    if (graph_.order(use.user) >= graph_.order(node) || is_in_place(*use.user) || makes(use.user, value)) continue;
    if (gathers_by(use)) continue;
    if (use.user->kind() == jit::prim::ListConstruct) {  // of an `index`, a `cat`
      if (applied_before(use.user->output(), node)) return true;
      continue;
    }
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

// The first node that computes with the value or a view of it; null if there is none. Sums over it, operators that
// change it in place, and what these write do not count: they come while the value is made.
jit::Node* InPlaceWrites::first_reading(const jit::Value* value) const {
  jit::Node* first = nullptr;
  for (const auto& use : value->uses()) {
    jit::Node* node = use.user;
    const OpKind kind = op_kind(*node);
    const bool listed = node->kind() == jit::prim::ListConstruct;  // of an `index`, a `cat`
    if (!listed && (is_in_place(*node) || kind == OpKind::kReduce || kind == OpKind::kOther)) continue;
    if (gathers_by(use) || makes(node, value)) continue;
    const bool view = listed || kind == OpKind::kReshape || kind == OpKind::kMoveAxis || kind == OpKind::kSlice ||
                      kind == OpKind::kSelect;
    if (view) node = first_reading(node->output(0));
    if (node != nullptr && (first == nullptr || graph_.order(node) < graph_.order(first))) first = node;
  }
  return first;
}

InPlaceWrites::Reading InPlaceWrites::reading_of(const jit::Value* value, const jit::Node* until) const {
  const auto found = writers_.find(alias_root(value));
  if (found == writers_.end()) return {};
  jit::Node* reading = first_reading(value);
  // A reading in a nested block stands where the block's owner does.
  while (reading != nullptr && reading->owningBlock() != value->node()->owningBlock()) {
    reading = reading->owningBlock()->owningNode();
  }
  if (reading != nullptr && graph_.order(reading) > graph_.order(until)) return {};
  const int64_t read = graph_.order(reading != nullptr ? reading : value->node());
  const bool changed = std::any_of(found->second.begin(), found->second.end(), [&](const jit::Node* writer) {
    return graph_.order(writer) > read && graph_.order(writer) <= graph_.order(until);
  });
  return {changed, reading};
}

bool InPlaceWrites::is_as_read(const jit::Value* value, const jit::Node* until) const {
  return !reading_of(value, until).changed_behind;
}

namespace {

jit::Value* copied_before(jit::Node* place, jit::Value* value) {
  jit::WithInsertPoint here(place);
  jit::Graph& graph = *place->owningGraph();
  jit::Value* none = graph.insertConstant(c10::IValue());
  return graph.insertNode(graph.create(jit::aten::clone, {value, none}, 1))->output();
}

}  // namespace

jit::Value* InPlaceWrites::as_read(jit::Value* value, const jit::Node* until) const {
  if (value == nullptr) return nullptr;
  const Reading reading = reading_of(value, until);
  if (!reading.changed_behind) return value;
  return copied_before(reading.node != nullptr ? reading.node : value->node()->next(), value);
}

jit::Value* InPlaceWrites::as_read_by(jit::Node* reader, jit::Value* value, const jit::Node* until) const {
  const auto found = writers_.find(alias_root(value));
  if (found == writers_.end()) return value;
  const bool changed = std::any_of(found->second.begin(), found->second.end(), [&](const jit::Node* writer) {
    return graph_.order(writer) > graph_.order(reader) && graph_.order(writer) <= graph_.order(until);
  });
  return changed ? copied_before(reader, value) : value;
}

}  // namespace moetap::hooks
