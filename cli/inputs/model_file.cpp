#include "cli/inputs/model_file.h"

#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/version.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <string_view>

#include "cli/inputs/sha256.h"
#include "cli/inputs/zip_archive.h"
#include "cli/terminal/command_error.h"
#include "hooks/graph/entry_methods.h"
#include "hooks/points/no_router.h"
#include "plugin/process/error_text.h"
#include "plugin/records/hook_spec_json.h"
#include "plugin/records/model_description_json.h"

namespace moetap::cli {
namespace {

constexpr const char* kExpected = "expected a TorchScript file, as torch.jit.save writes it";

void check_is_file(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    throw CommandError(fmt::format("{}: no such file; {}", path, kExpected));
  }
  if (error) {
    throw CommandError(fmt::format("{}: cannot be read ({}); check its permissions", path, error.message()));
  }
  if (std::filesystem::is_directory(status)) {
    throw CommandError(fmt::format("{}: is a directory; {}", path, kExpected));
  }
}

/// Throws CommandError with one line for what is no TorchScript file. LibTorch's own messages for these files have many
/// lines and name its internals.
void check_is_torchscript(const std::string& path) {
  check_is_zip_archive(path, "not a TorchScript file", kExpected);
  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> reader;
  try {
    reader = std::make_unique<caffe2::serialize::PyTorchStreamReader>(path);
  } catch (const std::exception& error) {
    const std::string reason = plugin::one_line(error);
    if (reason.find("central directory") != std::string::npos) {
      throw CommandError(
          fmt::format("{}: truncated or damaged (its zip directory is missing); copy or export it again", path));
    }
    throw CommandError(fmt::format("{}: not a TorchScript file ({}); {}", path, reason, kExpected));
  }
  if (!reader->hasRecord("constants.pkl")) {
    const char* what =
        reader->hasRecord("data.pkl") ? "it holds what torch.save writes: weights without code" : "no code in it";
    throw CommandError(fmt::format("{}: not a TorchScript file ({}); {}", path, what, kExpected));
  }
}

[[noreturn]] void throw_load_error(const std::string& path, const std::exception& error) {
  const std::string reason = plugin::one_line(error);
  constexpr std::string_view kUnknownOperator = "Unknown builtin op: ";
  const size_t place = reason.find(kUnknownOperator);
  if (place != std::string::npos) {
    std::string name = reason.substr(place + kUnknownOperator.size());
    name = name.substr(0, name.find_last_not_of(". ") + 1);
    throw CommandError(
        fmt::format("{}: uses the operator {}, which is not registered; preload the library that has it: "
                    "LD_PRELOAD=LIBRARY.so moetap ...",
                    path, name));
  }
  throw CommandError(fmt::format("{}: cannot be loaded ({}); export it again with LibTorch {}.{} or older", path,
                                 reason, TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR));
}

/// Throws CommandError for a hook spec with an instrumented model: its hooks can no longer be changed.
void check_not_instrumented(const ModelFile& model, const hooks::HookSpec& spec) {
  if (!spec.empty() && hooks::is_instrumented(model.module)) {
    throw CommandError(
        fmt::format("{}: is instrumented already; give the hook spec {} to moetap instrument, with the plain model",
                    model.path, spec.source),
        kExitUsage);
  }
}

/// Calls `work`. Its errors become CommandError with the model's path; `failure` introduces unexpected ones.
template <typename Work>
auto with_model_errors(const ModelFile& model, const char* failure, const Work& work) {
  try {
    return work();
  } catch (const CommandError&) {
    throw;
  } catch (const hooks::MethodError& error) {
    throw CommandError(fmt::format("{}: {}", model.path, plugin::one_line(error)), kExitUsage);
  } catch (const hooks::HookSpecError& error) {
    throw CommandError(fmt::format("{}: {}", model.path, plugin::one_line(error)), kExitUsage);
  } catch (const std::exception& error) {
    throw CommandError(fmt::format("{}: {} ({})", model.path, failure, plugin::one_line(error)));
  }
}

}  // namespace

ModelFile load_model_file(const std::string& path, c10::Device device) {
  check_is_file(path);
  check_is_torchscript(path);
  // Hashing a large file takes as long as loading it, so both run at once.
  auto hash = std::async(std::launch::async, sha256_of_file, path);
  try {
    auto module = torch::jit::load(path, device);
    return {std::move(module), path, hash.get()};
  } catch (const CommandError&) {
    throw;
  } catch (const std::exception& error) {
    throw_load_error(path, error);
  }
}

void set_eval_mode(torch::jit::Module& module) {
  for (auto submodule : module.modules()) {
    if (submodule.hasattr("training")) {
      submodule.setattr("training", false);
    }
  }
}

std::string no_router_line(const ModelFile& model, const hooks::Discovery& discovery) {
  return fmt::format("{}: {}", model.path, hooks::no_router_message(model.module, discovery));
}

torch::jit::Method find_method(const ModelFile& model, const std::string& name) {
  try {
    const auto entry = hooks::find_entry_method(model.module, name);
    return entry.module.get_method(entry.method);
  } catch (const hooks::MethodError& error) {
    throw CommandError(fmt::format("{}: {}", model.path, plugin::one_line(error)), kExitUsage);
  }
}

hooks::HookSpec load_hook_spec(const std::string& path) {
  if (path.empty()) {
    return {};
  }
  try {
    return plugin::hook_spec_from_file(path);
  } catch (const std::invalid_argument& error) {
    throw CommandError(fmt::format("--hooks: {}", error.what()), kExitUsage);
  }
}

hooks::Discovery find_hooks(const ModelFile& model, const std::vector<std::string>& methods,
                            const hooks::HookSpec& spec, hooks::HookKinds kinds) {
  check_not_instrumented(model, spec);
  return with_model_errors(model, "its graph cannot be read", [&]() -> hooks::Discovery {
    if (hooks::is_instrumented(model.module)) {
      auto description = plugin::model_description_from_text(hooks::model_description(model.module));
      return {std::move(description.hooks), std::move(description.skipped)};
    }
    return hooks::discover(model.module, methods, spec, kinds);
  });
}

namespace {

struct InstrumentedFile {
  plugin::ModelDescription description;
  hooks::Instrumented model;
};

InstrumentedFile instrument_file(const ModelFile& model, const std::vector<std::string>& methods,
                                 const hooks::HookSpec& spec, hooks::HookKinds kinds, hooks::RouterInputs inputs) {
  InstrumentedFile file;
  file.model = hooks::instrument(
      model.module,
      [&](const hooks::Discovery& discovery) {
        if (discovery.hooks.empty()) {
          throw CommandError(no_router_line(model, discovery));
        }
        file.description = plugin::describe_model(model.module, discovery, model.path, model.sha256);
        return plugin::to_text(file.description);
      },
      methods, spec, kinds, inputs);
  return file;
}

}  // namespace

torch::jit::Module instrument_model(const ModelFile& model, const std::vector<std::string>& methods,
                                    const hooks::HookSpec& spec, hooks::HookKinds kinds, hooks::RouterInputs inputs) {
  check_not_instrumented(model, spec);
  return with_model_errors(model, "cannot be instrumented", [&] {
    if (hooks::is_instrumented(model.module)) {
      return model.module;
    }
    return instrument_file(model, methods, spec, kinds, inputs).model.module;
  });
}

ModelToProve probe_model(const ModelFile& model, const std::vector<std::string>& methods, const hooks::HookSpec& spec) {
  return with_model_errors(model, "cannot be verified", [&] {
    InstrumentedFile file =
        instrument_file(model, methods, spec, hooks::HookKinds::kRoutersAndAttention, hooks::RouterInputs::kLeftOut);
    return ModelToProve{std::move(file.description), hooks::insert_probes(file.model)};
  });
}

}  // namespace moetap::cli
