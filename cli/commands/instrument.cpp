#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands/commands.h"
#include "cli/inputs/model_file.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/temporary_path.h"
#include "plugin/process/error_text.h"

namespace moetap::cli {
namespace {

struct InstrumentOptions {
  std::string model;
  std::string output;
  std::string hooks;
  std::string attention = "off";
  bool dump_router_input = false;
  std::vector<std::string> methods;
};

/// Saves to a file beside `output` and renames it, so that `output` is never half-written.
void save(const torch::jit::Module& module, const std::string& output) {
  namespace fs = std::filesystem;
  plugin::remove_left_temporaries(output);
  const fs::path temporary = plugin::temporary_path(output, 0);
  std::error_code ignored;
  try {
    module.save(temporary.string());
    fs::rename(temporary, output);
  } catch (const std::exception& error) {
    fs::remove(temporary, ignored);
    throw CommandError(fmt::format("{}: cannot be written ({}); check the folder and the free space", output,
                                   plugin::one_line(error)));
  }
}

void check_output(const std::string& output) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::is_directory(output, error)) {
    throw CommandError(fmt::format("{}: is a directory; -o names the file to write", output));
  }
  const fs::path folder = fs::absolute(output).parent_path();
  if (!fs::is_directory(folder, error) || access(folder.c_str(), W_OK) != 0) {
    throw CommandError(
        fmt::format("{}: cannot be written; {} is no folder that can be written to", output, folder.string()));
  }
}

int instrument(const InstrumentOptions& options) {
  const hooks::HookSpec spec = load_hook_spec(options.hooks);
  const auto kinds = options.attention == "off" ? hooks::HookKinds::kRouters : hooks::HookKinds::kRoutersAndAttention;
  check_output(options.output);
  const ModelFile model = load_model_file(options.model, c10::Device(c10::kCPU));
  for (const auto& method : options.methods) {
    find_method(model, method);
  }
  const auto inputs = options.dump_router_input ? hooks::RouterInputs::kReported : hooks::RouterInputs::kLeftOut;
  save(instrument_model(model, options.methods, spec, kinds, inputs), options.output);
  fmt::print("wrote {}; it runs where libmoetap.so is loaded\n", options.output);
  return 0;
}

}  // namespace

Command add_instrument(CLI::App& program) {
  auto options = std::make_shared<InstrumentOptions>();
  CLI::App* app = program.add_subcommand("instrument", "Write a model whose routers report to moetap");
  app->add_option("MODEL", options->model, "TorchScript file")->required();
  app->add_option("-o,--output", options->output, "File to write")->required();
  app->add_option("--hooks", options->hooks, "Hook spec (JSON file) that names routers by hand")->type_name("FILE");
  app->add_option("--method", options->methods,
                  "Method to record besides those that only a host calls: encode, encoder.forward; repeatable")
      ->allow_extra_args(false);
  app->add_option("--attention", options->attention,
                  "Whether its attention layers report as well; stats and full are the same here: a run decides")
      ->check(CLI::IsMember({"off", "stats", "full"}))
      ->capture_default_str();
  app->add_flag("--dump-router-input", options->dump_router_input,
                "Routers also report what enters their projection, for runs with dump_router_input");
  return {app, [options] { return instrument(*options); }};
}

}  // namespace moetap::cli
