#include "hooks/points/forward_handle.h"

namespace moetap::hooks {
namespace jit = torch::jit;

ForwardHandle::ForwardHandle(const MethodGraph& graph, jit::Value* handle) : method_graph_(graph) {
  handles_[graph.graph().get()] = handle;
}

jit::Value* ForwardHandle::in(jit::Graph* graph) {
  const auto found = handles_.find(graph);
  if (found != handles_.end()) return found->second;
  jit::Node* fork = method_graph_.fork_of(graph);
  TORCH_INTERNAL_ASSERT(fork != nullptr, "graph of a hook is neither the method's nor a fork's");
  fork->addInput(in(fork->owningGraph()));
  jit::Value* handle = graph->addInput();
  handle->setType(c10::TensorType::get());
  handles_[graph] = handle;
  return handle;
}

}  // namespace moetap::hooks
