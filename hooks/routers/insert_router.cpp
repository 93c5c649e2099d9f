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

// Flat weights in the order of tokens and slots, from another one.
jit::Value* put_back(jit::Graph& graph, jit::Value* weights, jit::Value* order) {
  jit::Value* flat = graph.insert(jit::aten::reshape, {weights, std::vector<int64_t>{-1}});
  jit::Value* zeros = graph.insert(jit::aten::zeros_like, {flat});
  return graph.insert(jit::aten::scatter, {zeros, 0, order, flat});
}

// The weights as the operator takes them: over slots or experts, tokens before.
jit::Value* weights_as_reported(jit::Graph& graph, const FoundRouter& router, jit::Value* weights) {
  if (router.weights_order != nullptr) return put_back(graph, weights, router.weights_order);
  if (router.weights_have_places) {
    jit::Value* dense = graph.insert(jit::aten::sum, {weights, std::vector<int64_t>{router.weights_dim + 1}});
    return with_experts_at(dense, router.weights_dim + 1, router.expert_dim);
  }
  return with_experts_at(weights, router.weights_dim, router.expert_dim);
}

// The slots of a value that holds shared experts beside them.
jit::Value* without_shared(const FoundRouter& router, jit::Value* value) {
  jit::Graph& graph = *value->owningGraph();
  jit::Value* size = graph.insert(jit::aten::size, {router.slots_alone, router.selected_dim});
  jit::Value* none = graph.insertConstant(c10::IValue());
  jit::Value* begin = router.slots_behind ? graph.insert(jit::aten::neg, {size}) : none;
  return graph.insert(jit::aten::slice, {value, router.expert_dim, begin, router.slots_behind ? none : size, 1});
}

void insert_arm(const FoundRouter& router, const HookPoint& hook, const InPlaceWrites& writes, ForwardHandle& handle,
                RouterInputs inputs) {
  std::vector<jit::Value*> values = router.selected;
  values.insert(values.end(), router.weights.begin(), router.weights.end());
  jit::Node* after = writes.ready_after(values);
  if (after == nullptr) {
    throw std::invalid_argument(
        fmt::format("router {}: its ids and weights are computed in different branches", hook.name));
  }
  if (router.kept != nullptr && !visible_from(router.kept, after)) {
    throw std::invalid_argument(fmt::format(
        "router {}: its weights and the tokens that it keeps are computed in different branches", hook.name));
  }
  jit::Value* logits = visible_from(router.logits, after) ? router.logits : nullptr;
  jit::Value* scores = visible_from(router.scores, after) ? router.scores : nullptr;
  for (const jit::Value* value : {logits, scores, router.kept}) {
    if (value == nullptr || value->node()->owningBlock() != after->owningBlock()) continue;
    if (writes.graph().order(value->node()) > writes.graph().order(after))
      after = const_cast<jit::Node*>(value->node());
  }

  logits = writes.as_read(logits, after);
  scores = writes.as_read(scores, after);
  // For the check alone: no copy is made for it.
  jit::Value* choice =
      visible_from(router.choice, after) && writes.is_as_read(router.choice, after) ? router.choice : nullptr;
  std::vector<jit::Value*> selected = router.selected;
  for (jit::Value*& value : selected) value = writes.as_read(value, after);
  RouterInput entering;
  jit::Value* input = nullptr;
  if (inputs == RouterInputs::kReported) {
    entering = router_input(writes.graph(), router);
    if (visible_from(entering.value, after)) {
      input = writes.as_read_by(entering.reader, entering.value, after);
    } else if (entering.missing.empty()) {
      entering.missing = "it is computed in a branch or fork of its own";
    }
  }

  jit::Graph& graph = *after->owningGraph();
  jit::Value* forward = handle.in(&graph);
  if (after->kind() == jit::prim::Param && forward->node()->owningBlock() == after->owningBlock()) {
    after = forward->node();  // ids that are an argument
  }
  jit::WithInsertPoint here(after->next());
  logits = with_experts_at(logits, router.logits_dim, router.expert_dim);
  scores = with_experts_at(scores, router.scores_dim, router.expert_dim);
  input = with_experts_at(input, entering.feature_dim, -1);
  for (jit::Value*& value : selected) value = with_experts_at(value, router.selected_dim, router.expert_dim);
  std::vector<jit::Value*> weights = router.weights;
  for (jit::Value*& value : weights) value = weights_as_reported(graph, router, value);
  if (visible_from(router.slots_alone, after)) {
    selected[0] = without_shared(router, selected[0]);
    if (router.weights_have_shared) weights[0] = without_shared(router, weights[0]);
  }
  if (router.kept != nullptr) {
    const bool places = router.kept_has_places;
    weights.push_back(places ? graph.insert(jit::aten::sum, {router.kept, std::vector<int64_t>{-1}}) : router.kept);
  }
  if (router.unused_where_zero) {
    jit::Value* unused = graph.insert(jit::aten::eq, {weights[0], 0});
    selected[0] = graph.insert(jit::aten::masked_fill, {selected[0], unused, -1});
  }
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
  const bool one = selected.size() == 1 && weights.size() <= 1;
  const auto list_of = [&](const std::vector<jit::Value*>& values) {
    return graph.insertNode(graph.createList(tensor, values))->output();
  };
  jit::Value* all_selected = one ? selected[0] : list_of(selected);
  jit::Value* all_weights = !one ? list_of(weights) : weights.empty() ? none : weights[0];
  jit::Value* dim = graph.insertConstant(router.expert_dim);
  jit::Value* form = graph.insertConstant(router.form);
  jit::Value* no_input = graph.insertConstant(entering.missing);
  const auto or_none = [&](jit::Value* value) { return value != nullptr ? value : none; };
  graph.insertNode(graph.create(kind,
                                {forward, id, or_none(logits), or_none(scores), all_selected, all_weights, dim, form,
                                 or_none(choice), or_none(input), no_input},
                                0));
}

}  // namespace

void insert_router(const FoundRouter& router, const HookPoint& hook, const InPlaceWrites& writes, ForwardHandle& handle,
                   RouterInputs inputs) {
  insert_arm(router, hook, writes, handle, inputs);
  for (jit::Value* weights : router.weights_of_other_arms) {
    FoundRouter arm = router;
    arm.weights = {weights};
    insert_arm(arm, hook, writes, handle, inputs);
  }
}

}  // namespace moetap::hooks
