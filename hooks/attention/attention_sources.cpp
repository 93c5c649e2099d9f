#include "hooks/attention/attention_sources.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

/// The hidden states that a value is made of: those that were projected to it, back over so many projections; where
/// nothing was projected, what comes from nowhere else.
class Sources {
 public:
  using Values = std::set<const jit::Value*>;

  Sources(int projections, const MethodGraph& graph, const ValueOrigins& origins)
      : projections_(projections), graph_(graph), origins_(origins) {}

  Values of(const jit::Value* value) {
    const Found& found = find(value, projections_);
    return found.projected.empty() ? found.others : found.projected;
  }

 private:
  struct Found {
    Values projected, others;

    bool empty() const { return projected.empty() && others.empty(); }
    void add(const Found& more) {
      projected.insert(more.projected.begin(), more.projected.end());
      others.insert(more.others.begin(), more.others.end());
    }
  };

  // Angles of rotary positions are no hidden states.
  static bool is_rotation(const jit::Node& node) {
    static const std::set<std::string> names = {"cos", "sin", "polar"};
    return node.kind().ns() == c10::namespaces::aten && names.count(base_name(node)) > 0;
  }

  const Found& find(const jit::Value* value, int projections) {
    const auto [place, is_new] = found_.try_emplace({value, projections});
    if (is_new) {
      const Found found = made_of(value, projections);
      found_[{value, projections}] = found;
    }
    return found_.at({value, projections});
  }

  Found made_of(const jit::Value* value, int projections) {
    Found found;
    const jit::Node* node = value->node();
    if (!origins_.is_activation(value) || is_rotation(*node)) return found;
    if (const jit::Value* outer = graph_.outer_of(value)) return find(outer, projections);
    if (node->kind() == jit::prim::If) {
      for (const jit::Block* block : node->blocks()) found.add(find(block->outputs()[value->offset()], projections));
      return found;
    }
    Projection projection;
    if (match_projection(const_cast<jit::Node*>(node), origins_, projection)) {
      found.projected.insert(projection.activation);
      if (projections > 1) {
        const Found& before = find(projection.activation, projections - 1);
        const Values& states = before.projected.empty() ? before.others : before.projected;
        found.projected.insert(states.begin(), states.end());
      }
      return found;
    }
    const OpKind kind = op_kind(*node);
    const bool is_one = kind == OpKind::kElementwise || kind == OpKind::kMultiply;  // rotations, scales
    bool followed = false;
    for (const jit::Value* input : node->inputs()) {
      if (!origins_.is_activation(input)) continue;
      followed = true;
      const Found& more = find(input, projections);
      if (!is_one) {
        found.add(more);
      } else if (found.projected.empty() && (found.empty() || !more.projected.empty())) {
        found = more;  // what was projected is the state, in whichever order it meets its factor
      }
    }
    if (!followed) found.others.insert(value);  // an argument, or embeddings
    return found;
  }

  const int projections_;
  const MethodGraph& graph_;
  const ValueOrigins& origins_;
  std::map<std::pair<const jit::Value*, int>, Found> found_;
};

/// Where the hidden states begin that a value is computed from: arguments, embeddings.
std::set<const jit::Value*> begins_of(const jit::Value* value, const MethodGraph& graph, const ValueOrigins& origins) {
  std::set<const jit::Value*> begins, seen = {value};
  std::vector<const jit::Value*> open = {value};
  while (!open.empty()) {
    const jit::Value* current = open.back();
    open.pop_back();
    const jit::Node* node = current->node();
    std::vector<const jit::Value*> before(node->inputs().begin(), node->inputs().end());
    const jit::Node* owner = node->owningBlock() == nullptr ? nullptr : node->owningBlock()->owningNode();
    if (node->kind() == jit::prim::Param) {
      before = {graph.outer_of(current)};
      if (owner != nullptr) before.assign(owner->inputs().begin(), owner->inputs().end());  // around a loop
    }
    for (const jit::Block* block : node->blocks()) {
      before.insert(before.end(), block->outputs().begin(), block->outputs().end());
    }
    bool followed = false;
    for (const jit::Value* one : before) {
      if (one == nullptr || !origins.is_activation(one)) continue;
      followed = true;
      if (seen.insert(one).second) open.push_back(one);
    }
    if (!followed && (owner == nullptr || node->kind() != jit::prim::Param)) begins.insert(current);
  }
  return begins;
}

}  // namespace

bool have_same_source(const AttentionArm& arm, const MethodGraph& graph, const ValueOrigins& origins) {
  if (arm.query == nullptr || arm.key == nullptr) return false;
  if (arm.query == arm.key) return true;
  for (const int projections : {1, 2}) {
    const auto queries = Sources(projections, graph, origins).of(arm.query);
    const auto keys = Sources(projections, graph, origins).of(arm.key);
    if (std::any_of(queries.begin(), queries.end(), [&](const jit::Value* one) { return keys.count(one) > 0; })) {
      return true;
    }
  }
  return false;
}

bool come_from_other_texts(const AttentionArm& arm, const MethodGraph& graph, const ValueOrigins& origins) {
  if (arm.query == nullptr || arm.key == nullptr) return false;
  return begins_of(arm.query, graph, origins) != begins_of(arm.key, graph, origins);
}

}  // namespace moetap::hooks
