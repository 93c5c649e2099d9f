#include "hooks/routers/taken_ids.h"

#include <algorithm>
#include <string>

#include "hooks/graph/in_place_writes.h"
#include "hooks/graph/known_numbers.h"
#include "hooks/graph/op_traits.h"
#include "hooks/routers/slot_pieces.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// What an operator fills a tensor of ids with, all over or in places; null for others.
const jit::Value* fill_of(const jit::Node& node) {
  const std::string name = base_name(node);
  if (name == "masked_fill" || name == "index_put" || name == "_index_put_impl") return node.input(2);
  if (name == "fill" || name == "copy") return node.input(1);
  return name == "index_fill" ? node.input(3) : nullptr;
}

}  // namespace

void TakenIds::add(const jit::Value* ids) {
  while (taken_.insert(ids).second && may_be_view(*ids->node())) ids = ids->node()->input(0);
}

bool TakenIds::hold(const jit::Value* ids) const {
  if (is_changed(ids)) return false;
  if (taken_.contains(ids)) return true;
  const jit::Node& node = *ids->node();
  if (node.kind() == jit::prim::ListUnpack) return hold(node.input(0));
  if (node.maybeSchema() == nullptr || node.inputs().empty()) return false;
  if (may_be_view(node)) return hold(node.input(0));
  switch (op_kind(node)) {
    case OpKind::kSplit:
      return hold(node.input(0));
    case OpKind::kMaskedFill:
    case OpKind::kIndexWrite:
      // What is done in place is a change of the ids before.
      return (is_in_place(node) || fills_unused(node)) && hold(node.input(0));
    case OpKind::kWhere:
      return (hold(node.input(1)) && is_no_expert(node.input(2))) ||
             (is_no_expert(node.input(1)) && hold(node.input(2)));
    case OpKind::kConcatenate: {
      const auto parts = node.input(0)->node()->inputs();
      return node.input(0)->node()->kind() == jit::prim::ListConstruct && joins_pieces_in_order(node) &&
             std::all_of(parts.begin(), parts.end(), [this](const jit::Value* part) { return hold(part); });
    }
    default:
      return false;
  }
}

bool TakenIds::is_no_expert(const jit::Value* id) const {
  const auto numbers = id == nullptr ? std::nullopt : known_numbers(graph_, id);
  return numbers && (numbers->largest < 0 || (router_.num_experts && numbers->least >= *router_.num_experts));
}

// Takes slots out, or changes those that are.
bool TakenIds::fills_unused(const jit::Node& node) const {
  return is_no_expert(fill_of(node)) || (op_kind(node) == OpKind::kMaskedFill && unused_.contains(node.input(1)));
}

// Other experts are written over them, or over a view.
bool TakenIds::is_changed(const jit::Value* ids) const {
  return std::any_of(ids->uses().begin(), ids->uses().end(), [this](const jit::Use& use) {
    if (use.offset != 0) return false;
    if (may_be_view(*use.user)) return is_changed(use.user->outputs()[0]);
    return is_in_place(*use.user) && (!fills_unused(*use.user) || is_changed(use.user->outputs()[0]));
  });
}

}  // namespace moetap::hooks
