#include "hooks/attention/attention_arms.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "hooks/attention/packed_projection.h"
#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The innermost call whose nodes are those of the product, the softmax and what it is applied to.
const ModuleCall* call_of(const AttentionArm& arm, const MethodGraph& graph) {
  const ModuleCall* inner = nullptr;
  for (const ModuleCall& call : graph.calls()) {
    const auto holds = [&](const jit::Node* node) {
      const int64_t order = graph.order(node);
      return call.first <= order && order < call.last;
    };
    if (holds(arm.product) && holds(arm.node) && holds(arm.applied)) inner = &call;
  }
  return inner;
}

// The blocks around a node, from the inside out.
std::vector<const jit::Block*> blocks_around(const jit::Node* node) {
  std::vector<const jit::Block*> blocks;
  for (const jit::Block* block = node->owningBlock(); block != nullptr;) {
    blocks.push_back(block);
    const jit::Node* owner = block->owningNode();
    block = owner == nullptr ? nullptr : owner->owningBlock();
  }
  return blocks;
}

// True if the nodes stand in different arms of one branch.
bool exclude_each_other(const jit::Node* a, const jit::Node* b) {
  const auto around_a = blocks_around(a), around_b = blocks_around(b);
  for (const jit::Block* one : around_a) {
    const jit::Node* branch = one->owningNode();
    if (branch == nullptr || branch->kind() != jit::prim::If) continue;
    for (const jit::Block* other : around_b) {
      if (other != one && other->owningNode() == branch) return true;
    }
  }
  return false;
}

bool is_same_parameter(const jit::Value* a, const jit::Value* b, const MethodGraph& graph) {
  if (a == b) return true;
  const auto path = graph.attribute_path(a);
  return !path.empty() && path == graph.attribute_path(b);
}

// True if the value is a projection by a parameter, or part of one, or laid out anew.
bool is_projected_by(const jit::Value* value, const jit::Value* parameter, const MethodGraph& graph,
                     const ValueOrigins& origins) {
  std::vector<const jit::Value*> open = {value};
  std::set<const jit::Value*> seen;
  while (!open.empty()) {
    const jit::Value* one = open.back();
    open.pop_back();
    if (!seen.insert(one).second) continue;
    if (is_same_parameter(one, parameter, graph)) return true;
    const jit::Node* node = one->node();
    if (node->kind() == jit::prim::If) {
      for (const jit::Block* block : node->blocks()) open.push_back(block->outputs()[one->offset()]);
      continue;
    }
    for (const jit::Value* input : node->inputs()) {
      // Behind the projection itself stand other layers.
      Projection projection;
      const bool of_layers_before =
          match_projection(const_cast<jit::Node*>(node), origins, projection) && input == projection.activation;
      if (!of_layers_before) open.push_back(input);
    }
  }
  return false;
}

bool is_slow_path_of(const AttentionArm& slow, const AttentionArm& fast, const MethodGraph& graph,
                     const ValueOrigins& origins) {
  if (fast.implementation != kPackedImplementation) return false;
  if (slow.implementation == kPackedImplementation) {
    // The fast path of a layer, and that of the attention in it.
    return slow.node->kind() != fast.node->kind() &&
           is_same_parameter(packed_weight(slow.node), packed_weight(fast.node), graph);
  }
  return is_projected_by(slow.query, packed_weight(fast.node), graph, origins);
}

// True if `inner` is the call `outer`, or inside it.
bool holds(const ModuleCall* outer, const ModuleCall* inner) {
  if (outer == inner || outer == nullptr || inner == nullptr) return outer == inner;
  return outer->first <= inner->first && inner->last <= outer->last;
}

bool is_slow_path_of_any(const AttentionArm& arm, const std::vector<AttentionArm>& others, const MethodGraph& graph,
                         const ValueOrigins& origins) {
  return std::any_of(others.begin(), others.end(),
                     [&](const AttentionArm& one) { return is_slow_path_of(arm, one, graph, origins); });
}

// True if the arm and the others exclude each other, or give the same values.
bool exclude_all(const AttentionArm& arm, const std::vector<AttentionArm>& others) {
  return std::all_of(others.begin(), others.end(), [&](const AttentionArm& one) {
    return exclude_each_other(arm.node, one.node) || (!arm.is_fused() && arm.probabilities == one.probabilities);
  });
}

bool exclude_slow_path(const std::vector<AttentionArm>& arms, const std::vector<AttentionArm>& packed) {
  bool has_slow_path = false;
  for (const AttentionArm& slow : packed) {
    if (slow.implementation == kPackedImplementation) continue;
    has_slow_path = true;
    for (const AttentionArm& arm : arms) {
      if (!exclude_each_other(arm.node, slow.node)) return false;
    }
  }
  return has_slow_path;
}

}  // namespace

std::vector<CalledArms> join_arms(std::vector<AttentionArm> arms, const MethodGraph& graph,
                                  const ValueOrigins& origins) {
  std::vector<CalledArms> joined;
  for (AttentionArm& arm : arms) {
    const ModuleCall* call = call_of(arm, graph);
    // The last with such a fast path: layers may share their weights.
    auto place = std::find_if(joined.rbegin(), joined.rend(), [&](const CalledArms& other) {
                   return holds(other.call, call) && is_slow_path_of_any(arm, other.arms, graph, origins);
                 }).base();
    if (place != joined.begin()) {
      --place;
    } else {
      place = std::find_if(joined.begin(), joined.end(),
                           [&](const CalledArms& other) { return other.call == call && exclude_all(arm, other.arms); });
    }
    if (place == joined.end()) {
      joined.push_back({{std::move(arm)}, call});
      continue;
    }
    place->call = call;  // a layer's own fast path stands around that of its attention
    const auto same = std::find_if(place->arms.begin(), place->arms.end(), [&](const AttentionArm& one) {
      return !arm.is_fused() && arm.probabilities == one.probabilities;
    });
    if (same == place->arms.end()) {
      place->arms.push_back(std::move(arm));
    } else {
      same->scores = nullptr;  // those of either arm
    }
  }
  // An arm of the slow path whose projections are not those of the fast one excludes an arm whose are.
  for (size_t i = 0; i < joined.size(); ++i) {
    if (joined[i].arms[0].implementation != kPackedImplementation) continue;
    for (size_t j = joined.size() - 1; j > i; --j) {
      if (joined[j].call != joined[i].call || !exclude_slow_path(joined[j].arms, joined[i].arms)) continue;
      std::move(joined[j].arms.begin(), joined[j].arms.end(), std::back_inserter(joined[i].arms));
      joined.erase(joined.begin() + static_cast<std::ptrdiff_t>(j));
    }
    std::stable_sort(joined[i].arms.begin(), joined[i].arms.end(), [&](const AttentionArm& a, const AttentionArm& b) {
      return graph.order(a.node) < graph.order(b.node);
    });
  }
  return joined;
}

}  // namespace moetap::hooks
