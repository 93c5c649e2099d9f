#include "hooks/routers/hash_ids.h"

#include "hooks/graph/op_traits.h"
#include "hooks/routers/tensor_lists.h"

namespace moetap::hooks {
namespace jit = torch::jit;

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
    return true;
  }
  if (!at::isIntegralType(ids.scalar_type(), false) || ids.dim() < 1 || ids.dim() > 2 || ids.numel() == 0) return false;
  hash = {node->output(), ids.max().item().toLong() + 1, ids.dim() == 2 ? ids.size(1) : 1, ids.dim() == 2};
  return true;
}

}  // namespace moetap::hooks
