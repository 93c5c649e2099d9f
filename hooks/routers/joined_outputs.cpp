#include "hooks/routers/joined_outputs.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "hooks/routers/choices_behind.h"
#include "hooks/routers/crossed_slots.h"
#include "hooks/routers/slot_places.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

/// Looks at what lies between a choice of experts and the product with the weights.
class JoinedOutputs {
 public:
  JoinedOutputs(const MethodGraph& graph, const RouterFlow& flow) : graph_(graph), choices_(graph, flow) {}

  // Before weights of all slots.
  bool are_in_another_order(const jit::Value* hidden) const {
    bool crossed = false;
    choices_.walk(hidden, [&](const jit::Value* value) {
      const bool joined = op_kind(*value->node()) == OpKind::kConcatenate;
      crossed = crossed || writes_cross(value, {}) || (joined && joins_in_another_order(*value->node()));
      return !joined;
    });
    return crossed;
  }

  // Before the weight of one slot.
  bool are_of_other_slots(const jit::Value* hidden, const Fact& weight) const {
    bool straight = false, crossed = false;
    choices_.walk(hidden, [&](const jit::Value* value) {
      const auto taken = taken_slot(value);
      if (taken && are_all_slots(value->node()->input(0), *taken)) {
        (is_at(*taken, weight) ? straight : crossed) = true;
      }
      return true;
    });
    return crossed && !straight;
  }

 private:
  // One place along a dimension: a number, or a value that only the run tells.
  struct Taken {
    int64_t dim = 0;
    std::optional<int64_t> number;
    const jit::Value* in_run = nullptr;
  };

  std::optional<Taken> taken_place(const jit::Value* value) const {
    const jit::Node& node = *value->node();
    if (node.inputs().empty()) return std::nullopt;
    const bool unpacked = node.kind() == jit::prim::ListUnpack;
    if (unpacked || node.kind() == jit::aten::__getitem__) {
      const jit::Node& list = *node.input(0)->node();
      const auto dim = op_kind(list) == OpKind::kSplit ? graph_.constant_int(list.inputs().back()) : std::nullopt;
      if (!dim) return std::nullopt;
      if (unpacked) return Taken{*dim, static_cast<int64_t>(value->offset())};
      return Taken{*dim, graph_.constant_int(node.input(1)), node.input(1)};
    }
    const OpKind kind = op_kind(node);
    if (kind != OpKind::kSelect && base_name(node) != "slice") return std::nullopt;
    const auto dim = graph_.constant_int(node.input(1)), begin = graph_.constant_int(node.input(2));
    if (!dim) return std::nullopt;
    if (kind == OpKind::kSelect) return Taken{*dim, begin, node.input(2)};
    const auto end = graph_.constant_int(node.input(3));
    const bool one = begin && end && *end == *begin + 1;
    return one ? std::optional(Taken{*dim, begin}) : std::nullopt;
  }

  // A place that may be one of the slots' of outputs [tokens, slots, width].
  std::optional<Taken> taken_slot(const jit::Value* value) const {
    const auto taken = taken_place(value);
    return taken && (taken->dim == 1 || taken->dim == -2) ? taken : std::nullopt;
  }

  static bool is_at(const Taken& taken, const Fact& piece) {
    if (taken.number && piece.place >= 0) return *taken.number == piece.place;
    return taken.in_run != nullptr && piece.place_in_run != nullptr && is_same_number(taken.in_run, piece.place_in_run);
  }

  // True if the outputs were computed for all slots at once, and a place is counted from the first of them.
  bool are_all_slots(const jit::Value* outputs, const Taken& taken) const {
    if (taken.number && *taken.number < 0) return false;
    const auto facts = choices_.of(outputs);
    return !facts.empty() && std::all_of(facts.begin(), facts.end(), [](const Fact* fact) {
      return fact->role == Role::kChosen && fact->aligned && !fact->flat && !is_piece(*fact);
    });
  }

  // The slot whose expert gave the outputs; null where there is none, or several.
  const Fact* slot_behind(const jit::Value* outputs) const {
    const Fact* slot = nullptr;
    for (const Fact* fact : choices_.of(outputs)) {
      if (!is_piece(*fact)) return nullptr;
      if (slot != nullptr && moetap::hooks::are_of_other_slots(*slot, *fact)) return nullptr;
      slot = fact;
    }
    return slot;
  }

  // `stack([out(ids[:, 1]), out(ids[:, 0])], 1)`: the slots do not rise one by one.
  bool joins_in_another_order(const jit::Node& node) const {
    jit::Value* list = const_cast<jit::Value*>(node.input(0));
    std::optional<int64_t> first;  // the slot of the list's first element
    const auto parts = list_elements(list);
    for (size_t i = 0; i < parts.size(); ++i) {
      const Fact* slot = slot_behind(parts[i]);
      if (slot == nullptr) continue;
      if (slot->place < 0 || grows_in_loop(list)) {
        if (slot->place < 0 && !is_appended_by_turns(list, parts[i], slot->place_in_run)) return true;
        continue;
      }
      const int64_t begin = slot->place - static_cast<int64_t>(i);
      if (first && *first != begin) return true;
      first = begin;
    }
    return false;
  }

  // True if the list gets the output of slot `number` in turn `number` of a loop.
  static bool is_appended_by_turns(const jit::Value* list, const jit::Value* part, const jit::Value* number) {
    return std::any_of(list->uses().begin(), list->uses().end(), [&](const jit::Use& use) {
      return use.user->kind() == jit::aten::append && use.user->input(1) == part && counts_turns(number, *use.user);
    });
  }

  // `outputs[:, 0] = out(ids[:, 1])`, into `value` or a view of it, which lies at the places `taken`.
  bool writes_cross(const jit::Value* value, const std::vector<Taken>& taken) const {
    return std::any_of(value->uses().begin(), value->uses().end(), [&](const jit::Use& use) {
      if (use.offset != 0) return false;
      if (may_be_view(*use.user)) {
        auto places = taken;
        if (const auto place = taken_place(use.user->output(0))) places.push_back(*place);
        return writes_cross(use.user->output(0), places);
      }
      if (taken.empty() || !is_in_place(*use.user)) return false;
      const auto sources = tensors_read(*use.user);
      return std::any_of(sources.begin() + 1, sources.end(), [&](const jit::Value* source) {
        const Fact* slot = slot_behind(source);
        return slot != nullptr &&
               std::none_of(taken.begin(), taken.end(), [&](const Taken& place) { return is_at(place, *slot); });
      });
    });
  }

  const MethodGraph& graph_;
  const ChoicesBehind choices_;
};

}  // namespace

bool crosses_joined_outputs(const MethodGraph& graph, const RouterFlow& flow) {
  const JoinedOutputs outputs(graph, flow);
  return std::any_of(flow.events().begin(), flow.events().end(), [&](const Event& event) {
    if (event.kind != EventKind::kAppliesWeights || event.what.role != Role::kSlot) return false;
    if (event.what.per_expert && !is_piece(event.what)) return false;
    const auto operands = tensors_read(*event.node);
    return std::any_of(operands.begin(), operands.end(), [&](const jit::Value* hidden) {
      if (flow.fact(hidden) != nullptr) return false;
      return is_piece(event.what) ? outputs.are_of_other_slots(hidden, event.what)
                                  : outputs.are_in_another_order(hidden);
    });
  });
}

}  // namespace moetap::hooks
