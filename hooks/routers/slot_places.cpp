#include "hooks/routers/slot_places.h"

#include <torch/csrc/jit/ir/constants.h>

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr int kMostSteps = 8;

bool is_computed_alike(const jit::Value* a, const jit::Value* b, int steps) {
  if (a == b) return true;
  const auto first = jit::toIValue(a), second = jit::toIValue(b);
  if (first && second) return first->isInt() && second->isInt() && first->toInt() == second->toInt();
  const jit::Node &left = *a->node(), &right = *b->node();
  if (steps == 0 || first || second || left.kind() != right.kind() || left.inputs().empty() || !left.blocks().empty() ||
      left.inputs().size() != right.inputs().size() || a->offset() != b->offset()) {
    return false;
  }
  for (size_t i = 0; i < left.inputs().size(); ++i) {
    if (!is_computed_alike(left.input(i), right.input(i), steps - 1)) return false;
  }
  return true;
}

bool is_number(const jit::Value* value, int64_t number) {
  const auto constant = jit::toIValue(value);
  return constant && constant->isInt() && constant->toInt() == number;
}

}  // namespace

bool is_piece(const Fact& fact) {
  return fact.place >= 0 || fact.place_in_run != nullptr;
}

bool is_same_number(const jit::Value* a, const jit::Value* b) {
  return is_computed_alike(a, b, kMostSteps);
}

bool counts_turns(const jit::Value* number, const jit::Node& node) {
  const jit::Node* derived = number->node();
  if (derived->kind() == jit::aten::__derive_index && is_number(derived->input(1), 0) &&
      is_number(derived->input(2), 1)) {
    number = derived->input(0);
  }
  const jit::Block* block = node.owningBlock();
  while (block->owningNode() != nullptr && block->owningNode()->kind() != jit::prim::Loop) {
    block = block->owningNode()->owningBlock();
  }
  return block->owningNode() != nullptr && number == block->inputs()[0];
}

}  // namespace moetap::hooks
