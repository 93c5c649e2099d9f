#include "hooks/routers/hash_ids.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <string>
#include <vector>

#include "hooks/graph/op_traits.h"
#include "hooks/routers/tensor_lists.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// True if the last dimension of an index among parameters is that of slots: where they meet a hidden state in an
// einsum, it has a letter of its own, "td,tkdf->tkf".
bool has_slot_letter(const jit::Value* chosen, int64_t dims_of_one) {
  for (const jit::Use& use : chosen->uses()) {
    if (op_kind(*use.user) == OpKind::kCopy && has_slot_letter(use.user->output(), dims_of_one)) return true;
    if (use.user->kind() != jit::prim::ListConstruct) continue;
    for (const jit::Use& of_list : use.user->output()->uses()) {
      if (base_name(*of_list.user) != "einsum") continue;
      const auto equation = jit::constant_as<std::string>(of_list.user->input(0));
      if (!equation) continue;
      std::vector<std::string> operands = {""};
      for (const char letter : equation->substr(0, equation->find("->"))) {
        if (letter == ',') operands.emplace_back();
        if (letter != ',' && letter != ' ') operands.back() += letter;
      }
      if (use.offset >= operands.size()) continue;
      const std::string own = operands[use.offset];
      const auto leading = static_cast<int64_t>(own.size()) - dims_of_one;
      if (leading < 2 || own.find('.') != std::string::npos) continue;
      const char last = own[static_cast<size_t>(leading) - 1];
      operands.erase(operands.begin() + static_cast<std::ptrdiff_t>(use.offset));
      const auto has_it = [&](const std::string& other) { return other.find(last) != std::string::npos; };
      if (std::none_of(operands.begin(), operands.end(), has_it)) return true;
    }
  }
  return false;
}

}  // namespace

bool match_hash_ids(jit::Node* node, const MethodGraph& graph, const ValueOrigins& origins, HashIds& hash) {
  if (node->outputs().size() != 1 || origins.of(node->output()) != Origin::kInput) return false;
  const std::string name = base_name(*node);
  if (name == "remainder" || name == "fmod") {
    hash = {node->output(), std::nullopt, 1, false};
    if (const auto size = graph.constant(node->input(1)); size.has_value()) {
      if (size->isInt()) hash.num_experts = size->toInt();
      if (size->isTensor() && size->toTensor().numel() == 1) hash.num_experts = size->toTensor().item().toLong();
    }
    return true;
  }
  if (op_kind(*node) != OpKind::kIndex) return false;
  const auto table = graph.constant(node->input(0));
  if (!table.has_value() || !table->isTensor() || !table->toTensor().defined()) return false;
  const at::Tensor ids = table->toTensor();
  if (at::isFloatingType(ids.scalar_type()) && ids.dim() >= 3) {  // an argument that chooses experts itself
    const auto indices = list_elements(node->input(name == "index_select" ? 2 : 1));
    if (indices.size() != 1 || origins.of(indices[0]) != Origin::kInput) return false;
    jit::Value* index = indices[0];
    while (op_kind(*index->node()) == OpKind::kCopy) index = index->node()->input(0);
    hash = {index, ids.size(0), 1, false};
    if (has_slot_letter(node->output(), ids.dim() - 1)) hash = {index, ids.size(0), std::nullopt, true};
    return true;
  }
  if (!at::isIntegralType(ids.scalar_type(), false) || ids.dim() < 1 || ids.dim() > 2 || ids.numel() == 0) return false;
  hash = {node->output(), ids.max().item().toLong() + 1, ids.dim() == 2 ? ids.size(1) : 1, ids.dim() == 2};
  return true;
}

}  // namespace moetap::hooks
