#include "hooks/routers/picked_indices.h"

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

bool are_picked(const jit::Value* value) {
  while (!value->node()->inputs().empty()) {
    switch (op_kind(*value->node())) {
      case OpKind::kPick:
        return value == value->node()->outputs().back();
      case OpKind::kCopy:
      case OpKind::kReshape:
      case OpKind::kElementwise:
      case OpKind::kMultiply:
      case OpKind::kMoveAxis:
      case OpKind::kSlice:
      case OpKind::kSelect:
        value = value->node()->input(0);
        break;
      default:
        return false;
    }
  }
  return false;
}

}  // namespace moetap::hooks
