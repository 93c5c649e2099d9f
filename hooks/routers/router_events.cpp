#include "hooks/routers/router_events.h"

#include <algorithm>
#include <set>

namespace moetap::hooks {
namespace jit = torch::jit;

bool is_strong(EventKind kind) {
  return kind == EventKind::kChoosesParameters || kind == EventKind::kDispatches || kind == EventKind::kChoosesOutputs;
}

bool has(const RouterFlow& flow, EventKind kind) {
  return std::any_of(flow.events().begin(), flow.events().end(),
                     [&](const Event& event) { return event.kind == kind; });
}

// Where weights met what may be a factor or a hidden state; null if they did not.
const jit::Node* unsure_application(const RouterFlow& flow) {
  const auto found = std::find_if(flow.events().begin(), flow.events().end(), [](const Event& event) {
    return event.kind == EventKind::kAppliesWeights && event.unsure;
  });
  return found == flow.events().end() ? nullptr : found->node;
}

const jit::Node* last_node(const RouterFlow& flow, EventKind kind) {
  const jit::Node* node = nullptr;
  for (const Event& event : flow.events()) {
    if (event.kind == kind) node = event.node;
  }
  return node;
}

// Ids that choose experts. The latest for each pick: ids that were rewritten after the pick replace it.
std::vector<jit::Value*> chosen_ids(const MethodGraph& graph, const RouterFlow& flow) {
  std::vector<jit::Value*> candidates;
  for (const Event& event : flow.events()) {
    const bool dense = event.kind == EventKind::kAppliesWeights;
    if ((!is_strong(event.kind) && !dense) || event.what.ordinal) continue;
    for (jit::Value* ids : event.what.ids) {
      if (std::find(candidates.begin(), candidates.end(), ids) == candidates.end()) candidates.push_back(ids);
    }
  }
  std::sort(candidates.begin(), candidates.end(),
            [&](const jit::Value* a, const jit::Value* b) { return graph.order(a->node()) > graph.order(b->node()); });
  std::vector<jit::Value*> chosen;
  std::set<int> covered;
  for (jit::Value* ids : candidates) {
    const Fact* fact = flow.fact(ids);
    if (fact == nullptr) continue;
    const bool fresh =
        std::any_of(fact->picks.begin(), fact->picks.end(), [&](int pick) { return !covered.count(pick); });
    if (!fresh) continue;
    covered.insert(fact->picks.begin(), fact->picks.end());
    chosen.push_back(ids);
  }
  std::reverse(chosen.begin(), chosen.end());
  return chosen;
}

// Ids or weights that nobody has followed choose or weigh experts, or numbers of slots without an expert do.
bool chooses_by_rewritten_ids(const RouterFlow& flow, const std::vector<jit::Value*>& selected) {
  const auto any = [&](bool Fact::*what) {
    return std::any_of(flow.events().begin(), flow.events().end(), [&](const Event& event) {
      return event.what.*what && (is_strong(event.kind) || event.kind == EventKind::kAppliesWeights);
    });
  };
  return any(&Fact::rewritten) || (any(&Fact::strays) && !flow.weighs_experts_only(selected));
}

}  // namespace moetap::hooks
