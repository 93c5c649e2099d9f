#include "hooks/points/router_inputs.h"

namespace moetap::hooks {

std::vector<TensorInput> tensors_of_input(torch::jit::Node* router, size_t input) {
  torch::jit::Value* value = router->input(input);
  if (value->mustBeNone()) return {};
  if (value->type()->kind() != c10::TypeKind::ListType) return {{router, input}};
  std::vector<TensorInput> tensors;
  for (size_t i = 0; i < value->node()->inputs().size(); ++i) tensors.push_back({value->node(), i});
  return tensors;
}

}  // namespace moetap::hooks
