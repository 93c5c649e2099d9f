#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <string>
#include <string_view>
#include <vector>

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_check.h"
#include "hooks/points/hook_point.h"

namespace moetap::plugin {

/// Most routers report one tensor of ids and one of weights, which need no allocation.
using SlotTensors = c10::SmallVector<at::Tensor, 1>;

/// What `moetap::router` was given; see hooks/operator_schemas.h for the layouts. All tensors on one device.
struct ReportedRouter {
  at::Tensor logits;     // undefined: not captured
  at::Tensor scores;     // undefined: the model has none
  SlotTensors selected;  // at least one
  SlotTensors weights;   // may be empty
  int64_t expert_dim = -1;
  std::string_view form;   // see hooks/points/operator_schemas.h
  at::Tensor choice = {};  // what the pick reads, laid out as logits; undefined: not known
  at::Tensor input = {};   // what enters the projection, its features last; undefined: `no_input` says why
  std::string_view no_input = {};
};

/// The same without gradients.
ReportedRouter detached(const ReportedRouter& reported);

/// The same in the canonical layout. Tensors may share memory with the reported ones: the caller copies what it keeps.
struct CanonicalRouter {
  analysis::RouterCall call;
  std::vector<int64_t> token_sizes;  // sizes of the model's tensor without the dimension of the experts, in token order
  // int64 [] on the call's device: how many selected ids outside [0, E) became -1. Undefined: none did; on a device
  // `call.selected` may then hold such ids, which the sums count.
  at::Tensor out_of_range;
  // int64 [T, K]: the ids of null experts (HookPoint::null_experts) that lie beyond [0, E), which are -1 in
  // `call.selected`; -1 elsewhere. Undefined: the router has none.
  at::Tensor null_ids;
};

/// Brings a report into the canonical layout: experts last, tokens flattened ([B, E, h, w] in the order b, h, w). Does
/// not wait for a device. Ids outside [0, E), other than -1 and those of null experts, are an error on the CPU; on a
/// device they are passed on or become -1. Throws c10::Error whose message names what does not fit. Call it without
/// gradients.
CanonicalRouter to_canonical(const ReportedRouter& reported, const hooks::HookPoint& hook);

/// A canonical call with what its check reads besides. What does not fit the call's layout is left out.
analysis::CheckedRouter to_checked(const CanonicalRouter& canonical, const ReportedRouter& reported,
                                   const hooks::HookPoint& hook);

/// What enters the projection of a call's tokens, or why that is not known (one line).
struct CanonicalInput {
  at::Tensor rows;  // [T, H] in the model's dtype; may share memory with the reported one; undefined: see `missing`
  std::string missing;
};
CanonicalInput to_input(const CanonicalRouter& canonical, const ReportedRouter& reported);

}  // namespace moetap::plugin
