#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <vector>

#include "hooks/points/hook_point.h"
#include "plugin/records/attention_bytes.h"

namespace moetap::cli {

/// What `--attention full` keeps, before the first forward, from the arguments that it will get. `hooks`: those of the
/// method.
plugin::AttentionBytes attention_bytes(const std::vector<hooks::HookPoint>& hooks, const c10::FunctionSchema& schema,
                                       const std::vector<c10::IValue>& arguments);

}  // namespace moetap::cli
