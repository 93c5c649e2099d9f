#include "hooks/routers/choices_behind.h"

#include <unordered_set>

#include "hooks/routers/router_events.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr size_t kMostValues = 2000;  // that are looked at on the way back from one hidden state

}  // namespace

std::vector<const jit::Value*> tensors_read(const jit::Node& node) {
  std::vector<const jit::Value*> tensors;
  for (const jit::Value* input : node.inputs()) {
    for (const jit::Value* element : list_elements(const_cast<jit::Value*>(input))) {
      if (is_tensor(element)) tensors.push_back(element);
    }
  }
  return tensors;
}

ChoicesBehind::ChoicesBehind(const MethodGraph& graph, const RouterFlow& flow) : graph_(graph), flow_(flow) {
  for (const Event& event : flow.events()) {
    if (is_strong(event.kind) && !event.what.ordinal) choices_[event.node].push_back(&event.what);
  }
}

void ChoicesBehind::walk(const jit::Value* hidden, const std::function<bool(const jit::Value*)>& goes_on) const {
  std::vector<const jit::Value*> open = {hidden};
  std::unordered_set<const jit::Value*> seen = {hidden};
  for (size_t i = 0; i < open.size() && i < kMostValues; ++i) {
    const jit::Node* node = open[i]->node();
    if (!goes_on(open[i]) || choices_.contains(node)) continue;
    const jit::Node* projection = flow_.projection().node;
    const bool before = projection != nullptr && graph_.order(node) <= graph_.order(projection);
    if (before || node->kind() == jit::prim::Param) continue;
    for (const jit::Value* input : node->inputs()) {
      for (const jit::Value* element : list_elements(const_cast<jit::Value*>(input))) {
        if (flow_.fact(element) == nullptr && seen.insert(element).second) open.push_back(element);
      }
    }
  }
}

std::vector<const Fact*> ChoicesBehind::of(const jit::Value* hidden) const {
  std::vector<const Fact*> found;
  walk(hidden, [&](const jit::Value* value) {
    const auto choice = choices_.find(value->node());
    if (choice != choices_.end()) found.insert(found.end(), choice->second.begin(), choice->second.end());
    return true;
  });
  return found;
}

}  // namespace moetap::hooks
