#pragma once

#include <memory>
#include <string_view>

#include "plugin/session/model_binding.h"

namespace moetap::plugin {

/// Where the forwards of a model go, by the text that its `moetap::begin` carries: to the session that attached it,
/// else to that of the process; null: nobody records them. Throws only if the process's session is strict.
std::shared_ptr<ModelBinding> find_binding(std::string_view description);

/// Which code the operators moetap::* of the process belong to.
enum class OperatorOwner {
  kThisCopy,
  kAnotherCopy,  // the library was loaded before, from another file; this copy stays idle
  kNobody,       // the LibTorch of the process does not fit
};
OperatorOwner operator_owner();

}  // namespace moetap::plugin
