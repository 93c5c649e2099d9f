#pragma once

#include <c10/core/Device.h>
#include <torch/csrc/jit/api/module.h>

#include <string>
#include <vector>

#include "hooks/instrument.h"
#include "hooks/probe.h"
#include "plugin/records/model_description.h"

namespace moetap::cli {

struct ModelFile {
  torch::jit::Module module;
  std::string path;    // as the user gave it
  std::string sha256;  // of the file, hexadecimal
};

/// Loads a TorchScript file onto a device. Throws CommandError with one line for what is no such file: missing, a
/// directory, empty, truncated, another format, operators that are not registered.
ModelFile load_model_file(const std::string& path, c10::Device device);

/// Finds the routers of a model, and its attention if `kinds` says so, without rewriting it. For an instrumented model
/// it returns what was found when it was instrumented, since discovery would see the operators that were inserted.
/// `methods` and errors are those of `instrument_model`, except that finding no router is no error.
hooks::Discovery find_hooks(const ModelFile& model, const std::vector<std::string>& methods,
                            const hooks::HookSpec& spec, hooks::HookKinds kinds = hooks::HookKinds::kRouters);

/// Rewrites the model so that its routers, and its attention if `kinds` says so, report; a model that is instrumented
/// already is returned as it is. `methods` are instrumented besides those that only a host calls. Throws CommandError
/// if no router is found, if the hook spec does not fit the model or comes with an instrumented one, or if what the
/// model says about itself cannot be read.
torch::jit::Module instrument_model(const ModelFile& model, const std::vector<std::string>& methods,
                                    const hooks::HookSpec& spec, hooks::HookKinds kinds = hooks::HookKinds::kRouters,
                                    hooks::RouterInputs inputs = hooks::RouterInputs::kLeftOut);

/// As Module::eval, which fails for frozen modules: they have no attribute `training`.
void set_eval_mode(torch::jit::Module& module);

/// A model to be proven: what its description says, and a twin whose captured values can be overridden.
struct ModelToProve {
  plugin::ModelDescription description;
  hooks::ProbedModel probed;
};

/// Instruments the model and inserts probes (hooks/probe.h). Errors as `instrument_model`, also for a model that is
/// instrumented already.
ModelToProve probe_model(const ModelFile& model, const std::vector<std::string>& methods, const hooks::HookSpec& spec);

/// The method that a name as "forward" or "encoder.forward" stands for. Throws CommandError with the exit status of a
/// wrong usage if there is none.
torch::jit::Method find_method(const ModelFile& model, const std::string& name);

/// The hook spec of an option --hooks: empty without one. Throws CommandError with the exit status of a wrong usage.
hooks::HookSpec load_hook_spec(const std::string& path);

/// hooks::no_router_message with the file's path before it.
std::string no_router_line(const ModelFile& model, const hooks::Discovery& discovery);

}  // namespace moetap::cli
