#include "hooks/routers/tensor_lists.h"

#include <algorithm>

namespace moetap::hooks {
namespace jit = torch::jit;

std::vector<jit::Value*> list_elements(jit::Value* value) {
  jit::Node* node = value->node();
  if (node->kind() != jit::prim::ListConstruct) return {value};
  std::vector<jit::Value*> elements(node->inputs().begin(), node->inputs().end());
  for (const auto& use : value->uses()) {
    if (use.user->kind() == jit::aten::append && use.offset == 0) elements.push_back(use.user->input(1));
  }
  return elements;
}

bool grows_in_loop(const jit::Value* list) {
  return std::any_of(list->uses().begin(), list->uses().end(), [&](const jit::Use& use) {
    return use.user->kind() == jit::aten::append && use.user->owningBlock() != list->node()->owningBlock();
  });
}

}  // namespace moetap::hooks
