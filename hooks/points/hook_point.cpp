#include "hooks/points/hook_point.h"

namespace moetap::hooks {

const char* to_string(HookKind kind) {
  return kind == HookKind::kRouter ? "router" : "attention";
}

}  // namespace moetap::hooks
