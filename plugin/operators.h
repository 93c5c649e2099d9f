#pragma once

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "plugin/session/forward_recorder.h"
#include "plugin/session/model_binding.h"

namespace moetap::plugin {

/// Where the forwards of a model go, by the text that its `moetap::begin` carries: to the session that attached it,
/// else to that of the process; null: nobody records them. Throws only if the process's session is strict.
std::shared_ptr<ModelBinding> find_binding(std::string_view description);

/// What runs inside an operator is no part of the model: no gradients, no autocast, no tracing, no Python mode sees it.
class OutsideTheModel {
 public:
  OutsideTheModel();

 private:
  at::NoGradGuard no_grad_;
  c10::impl::ExcludeDispatchKeyGuard excluded_;
};

at::Tensor tensor_or_none(const c10::IValue& value);
/// `value`: a tensor, none, or a list of tensors.
SlotTensors tensors_of(const c10::IValue& value);

/// Which code the operators moetap::* of the process belong to.
enum class OperatorOwner {
  kThisCopy,
  kAnotherCopy,  // the library was loaded before, from another file; this copy stays idle
  kNobody,       // the LibTorch of the process does not fit
};
OperatorOwner operator_owner();

}  // namespace moetap::plugin
