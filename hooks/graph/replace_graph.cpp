#include "hooks/graph/replace_graph.h"

#include <torch/csrc/jit/api/function_impl.h>

#include <set>

namespace moetap::hooks {
namespace jit = torch::jit;

void replace_graph(const MethodGraph& edited) {
  const auto own = edited.module().get_method(edited.method());
  jit::Block* block = jit::toGraphFunction(own.function()).graph()->block();
  block->clear();
  while (!block->inputs().empty()) block->eraseInput(block->inputs().size() - 1);
  block->cloneFrom(edited.graph()->block(), [](jit::Value* value) -> jit::Value* {
    TORCH_INTERNAL_ASSERT(false, "value ", value->debugName(), " is used but not defined in the method's graph");
  });
}

void forget_optimised_graphs(const jit::Module& twin) {
  // While inlining one method into another, LibTorch kept optimised copies of their graphs before the change.
  std::set<const c10::Type*> cleared;
  for (const auto& submodule : twin.modules()) {
    if (!cleared.insert(submodule.type().get()).second) continue;
    for (const auto& method : submodule.get_methods()) {
      if (auto* function = jit::tryToGraphFunction(method.function())) function->clear_optimized_graphs();
    }
  }
}

}  // namespace moetap::hooks
