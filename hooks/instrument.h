#pragma once

#include <torch/csrc/jit/api/module.h>

#include <functional>
#include <string>
#include <vector>

#include "hooks/points/hook_point.h"
#include "hooks/points/hook_spec.h"
#include "hooks/routers/router_input.h"

namespace moetap::hooks {

/// Finds every router, and every attention if `kinds` says so, in the methods that a host calls, without changing the
/// module: the module's own, and those of its submodules that no method of the module reaches (`encoder.forward`).
/// `methods` are looked into in any case. The hook spec adds to what is found, changes it or leaves it out. Blocks;
/// thread-safe on distinct modules. Throws HookSpecError where the spec does not fit the module, MethodError
/// (entry_methods.h) where one of `methods` does not exist or shares its code with other modules, so that a call does
/// not tell which of them runs (others like that are listed as skipped).
Discovery discover(const torch::jit::Module& module, const std::vector<std::string>& methods = {},
                   const HookSpec& spec = {}, HookKinds kinds = HookKinds::kRouters);

/// Gives the text that every `moetap::begin` of a twin carries: which model it is and what its hooks are. The caller
/// writes it (JSON); `hooks` does not read it.
using DescribeModel = std::function<std::string(const Discovery&)>;

struct Instrumented {
  torch::jit::Module module;  // the twin: a new type that shares the weights
  Discovery discovery;
};

/// Returns a twin of `module` whose routers (and attention, if `kinds` says so) report to the `moetap::` operators,
/// which must be registered. The original is not touched, whether it has run or not. Throws std::invalid_argument if
/// the module is instrumented already (see `is_instrumented`), or if ids and weights of a router are computed in
/// different branches; and as `discover`. Methods, spec and kinds: as for `discover`. If some methods have hooks,
/// methods without one stay as they are. A method of a submodule ("encoder.forward") that is instrumented also reports
/// where an uninstrumented method calls it.
Instrumented instrument(const torch::jit::Module& module, const DescribeModel& describe,
                        const std::vector<std::string>& methods = {}, const HookSpec& spec = {},
                        HookKinds kinds = HookKinds::kRouters, RouterInputs inputs = RouterInputs::kLeftOut);

/// Which routers of an instrumented module report what enters their projection.
struct InstrumentedInputs {
  int64_t reported = 0;   // routers that do
  std::string first_why;  // of the first that was asked for it and does not: `no_input` of its operator; "": none
};
InstrumentedInputs instrumented_inputs(const torch::jit::Module& module);

/// True if a method of the module holds a `moetap::begin`.
bool is_instrumented(const torch::jit::Module& module);

/// The text given to `instrument`; throws std::invalid_argument if the module is not instrumented.
std::string model_description(const torch::jit::Module& module);

}  // namespace moetap::hooks
