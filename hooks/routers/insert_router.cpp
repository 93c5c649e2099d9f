#include "hooks/routers/insert_router.h"

#include <fmt/format.h>
#include <torch/csrc/jit/ir/constants.h>

#include <stdexcept>

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// A view with the experts where the selection has them.
jit::Value* with_experts_at(jit::Value* value, int64_t from, int64_t to) {
  if (value == nullptr || from == to) return value;
  jit::Graph& graph = *value->owningGraph();
  jit::Value* source = graph.insertConstant(from);
  jit::Value* target = graph.insertConstant(to);
  return graph.insertNode(graph.create(jit::aten::movedim, {value, source, target}, 1))->output();
}

// The ids of a router that selects all experts: in falling order of the weights, of equal ones the lower id first, as a
// selection would give them.
jit::Value* ids_by_weight(jit::Graph& graph, const FoundRouter& router) {
  return graph.insert(jit::aten::argsort, {router.weights[0]},
                      {jit::NamedValue("stable", true), jit::NamedValue("dim", router.expert_dim),
                       jit::NamedValue("descending", true)});
}

}  // namespace

void insert_router(const FoundRouter& router, const HookPoint& hook, const InPlaceWrites& writes,
                   ForwardHandle& handle) {
  std::vector<jit::Value*> values = router.selected;
  values.insert(values.end(), router.weights.begin(), router.weights.end());
  jit::Node* after = writes.ready_after(values);
  if (after == nullptr) {
    throw std::invalid_argument(
        fmt::format("router {}: its ids and weights are computed in different branches", hook.name));
  }
  jit::Value* logits = visible_from(router.logits, after) ? router.logits : nullptr;
  jit::Value* scores = visible_from(router.scores, after) ? router.scores : nullptr;
  for (const jit::Value* value : {logits, scores}) {
    if (value == nullptr || value->node()->owningBlock() != after->owningBlock()) continue;
    if (writes.graph().order(value->node()) > writes.graph().order(after))
      after = const_cast<jit::Node*>(value->node());
  }

  logits = writes.as_made(logits, after);
  scores = writes.as_made(scores, after);
  std::vector<jit::Value*> selected = router.selected;
  for (jit::Value*& value : selected) value = writes.as_made(value, after);

  jit::Graph& graph = *after->owningGraph();
  jit::Value* forward = handle.in(&graph);
  jit::WithInsertPoint here(after->next());
  logits = with_experts_at(logits, router.logits_dim, router.expert_dim);
  scores = with_experts_at(scores, router.scores_dim, router.expert_dim);
  if (router.selects_all) selected = {ids_by_weight(graph, router)};
  if (router.add_slot_dim) {
    jit::Value* last = graph.insertConstant(int64_t{-1});
    for (jit::Value*& value : selected) {
      value = graph.insertNode(graph.create(jit::aten::unsqueeze, {value, last}, 1))->output();
    }
  }
  static const jit::Symbol kind = jit::Symbol::fromQualString("moetap::router");
  jit::Value* none = graph.insertConstant(c10::IValue());
  jit::Value* id = graph.insertConstant(hook.id);
  const auto tensor = c10::TensorType::get();
  jit::Value* selected_list = graph.insertNode(graph.createList(tensor, selected))->output();
  jit::Value* weights_list = graph.insertNode(graph.createList(tensor, router.weights))->output();
  jit::Value* dim = graph.insertConstant(router.expert_dim);
  jit::Value* form = graph.insertConstant(router.form);
  graph.insertNode(graph.create(kind,
                                {forward, id, logits != nullptr ? logits : none, scores != nullptr ? scores : none,
                                 selected_list, weights_list, dim, form},
                                0));
}

}  // namespace moetap::hooks
