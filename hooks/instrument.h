#pragma once

#include <torch/csrc/jit/api/module.h>

#include <functional>
#include <string>

#include "hooks/hook_point.h"

namespace moetap::hooks {

/// Finds every router of the module's methods without changing the module. Blocks; thread-safe on distinct modules.
Discovery discover(const torch::jit::Module& module);

/// Text that every `moetap::begin` of a twin carries: who the model is and what its hooks are. The caller writes it
/// (JSON); `hooks` does not read it.
using DescribeModel = std::function<std::string(const Discovery&)>;

struct Instrumented {
  torch::jit::Module module;  // the twin: a new type that shares the weights
  Discovery discovery;
};

/// Returns a twin of `module` whose routers report to the `moetap::` operators. The original is untouched, warm or
/// cold. The operators must be registered. An already instrumented module is refused with std::invalid_argument: see
/// `is_instrumented`.
/// `methods` are looked into even where other methods of the module call them; those that only the host calls always
/// are. A method without a router stays as it is where another has one.
Instrumented instrument(const torch::jit::Module& module, const DescribeModel& describe,
                        const std::vector<std::string>& methods = {});

/// True if a method of the module holds a `moetap::begin`.
bool is_instrumented(const torch::jit::Module& module);

/// The text given to `instrument`; throws std::invalid_argument if the module is not instrumented.
std::string model_description(const torch::jit::Module& module);

}  // namespace moetap::hooks
