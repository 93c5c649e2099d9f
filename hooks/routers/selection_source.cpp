#include "hooks/routers/selection_source.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <set>
#include <string>

#include "hooks/graph/in_place_writes.h"
#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The pick's constant `dim`, counted from the end; empty where the graph does not tell.
std::optional<int64_t> dim_from_end(const jit::Node& pick, const PickOfIds& of) {
  const auto constant = [&](const char* name) -> std::optional<int64_t> {
    if (!pick.schema().argumentIndexWithName(name)) return std::nullopt;
    return jit::constant_as<int64_t>(pick.namedInput(name));
  };
  const auto dim = constant("dim");
  if (!dim || *dim < 0) return dim;
  return of.rank ? std::optional(*dim - *of.rank) : std::nullopt;
}

bool takes_largest(const jit::Node& pick) {
  const std::string name = base_name(pick);
  if (name == "argmax" || name == "max") return true;
  for (const char* flag : {"largest", "descending"}) {
    if (pick.schema().argumentIndexWithName(flag)) {
      return jit::constant_as<bool>(pick.namedInput(flag)).value_or(false);
    }
  }
  return false;
}

// True for operators whose result holds the first of the slots of their first input, or all, as the same ids.
bool keeps_first_ids(const jit::Node& node) {
  static const std::set<std::string> kKeep = {"to",      "type_as",   "detach",    "clone",   "contiguous",
                                              "view",    "alias",     "reshape",   "flatten", "unflatten",
                                              "squeeze", "unsqueeze", "_cast_Long"};
  const std::string name = base_name(node);
  if (name == "slice") {
    const auto from_start = [&](const char* argument, int64_t neutral) {
      const jit::Value* value = node.namedInput(argument);
      const auto constant = jit::toIValue(value);
      return constant && (constant->isNone() || (constant->isInt() && constant->toInt() == neutral));
    };
    return node.schema().argumentIndexWithName("start") && from_start("start", 0) && from_start("step", 1);
  }
  return kKeep.contains(name);
}

}  // namespace

const jit::Node* pick_of_ids(const jit::Value* ids) {
  while (!is_written(ids)) {
    const jit::Node& node = *ids->node();
    if (op_kind(node) == OpKind::kPick) return ids == node.outputs().back() ? &node : nullptr;
    if (node.inputs().empty() || node.maybeSchema() == nullptr || !keeps_first_ids(node)) return nullptr;
    ids = node.input(0);
  }
  return nullptr;
}

jit::Value* selection_source(const PickOfIds& of) {
  const jit::Node& pick = *of.pick;
  if (pick.maybeSchema() == nullptr || !takes_largest(pick)) return nullptr;
  const auto dim = dim_from_end(pick, of);
  int64_t experts = of.expert_dim;
  if (experts >= 0 && of.rank) experts -= *of.rank;
  if (!dim || *dim != experts) return nullptr;
  const bool all = of.ids.size() == 1 && pick_of_ids(of.ids.front()) == of.pick;
  return all ? const_cast<jit::Value*>(pick.input(0)) : nullptr;
}

}  // namespace moetap::hooks
