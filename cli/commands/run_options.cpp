#include "cli/commands/run_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "cli/terminal/command_error.h"
#include "plugin/process/error_text.h"
#include "plugin/records/config_keys.h"

namespace moetap::cli {
namespace {

std::string with_dashes(std::string_view key) {
  std::string name(key);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string option_names(const plugin::ConfigKey& key) {
  std::string names = key.name == "output_dir" ? "-o,--output-dir" : "--" + with_dashes(key.name);
  if (!key.alias.empty()) {
    names += ",--" + with_dashes(key.alias);
  }
  return names;
}

void add_config_option(CLI::App& app, const plugin::ConfigKey& key, RunOptions& options) {
  static const plugin::Config kDefaults;
  const std::string name(key.name);
  const auto store = [&options, name](const std::string& text) { options.settings[name] = text; };
  const nlohmann::json by_default = key.get(kDefaults);
  const std::string names = option_names(key);
  const std::string doc(key.doc);
  if (key.type == plugin::ConfigType::kFlag && !by_default.get<bool>()) {
    app.add_flag_function(
        names, [store](int64_t count) { store(count > 0 ? "true" : "false"); }, doc);
    return;
  }
  if (key.type == plugin::ConfigType::kFlag) {
    app.add_flag_callback(
        "--no-" + with_dashes(key.name), [store] { store("false"); },
        fmt::format("As --{} false", with_dashes(key.name)));
  }
  CLI::Option* option = app.add_option_function<std::string>(names, store, doc);
  option->type_name(key.type == plugin::ConfigType::kCount    ? "N"
                    : key.type == plugin::ConfigType::kFlag   ? "BOOL"
                    : key.type == plugin::ConfigType::kChoice ? fmt::format("{}", fmt::join(key.choices, "|"))
                                                              : "TEXT");
  if (by_default.is_string() && !by_default.get<std::string>().empty()) {
    option->default_str(by_default.get<std::string>());
  } else if (!by_default.is_string() && !by_default.is_null()) {
    option->default_str(by_default.dump());
  }
}

}  // namespace

void add_run_options(CLI::App& app, RunOptions& options) {
  app.add_option("MODEL", options.model, "TorchScript file, instrumented or not")->required();
  app.add_option(
         "--inputs", options.inputs,
         "Inputs, one forward a file: .safetensors, or .pt of a dict or a tuple (lists, tuples, dicts, numbers and "
         "None inside become what the method takes); a directory is its files in name order")
      ->required()
      ->type_name("FILE_OR_DIR");
  app.add_option("--config", options.config_file, "Configuration (JSON); the other options override it")
      ->type_name("FILE");
  app.add_flag("--save-outputs", options.save_outputs,
               "Write the first tensor of each forward's output to RUN_DIR/moetap/outputs/NNNNNN.safetensors");
  app.add_flag("--overwrite", options.overwrite, "Replace the run that RUN_DIR holds; without it, that is an error");
  for (const auto& key : plugin::config_keys()) {
    add_config_option(app, key, options);
  }
}

plugin::Config resolve_config(const RunOptions& options) {
  try {
    plugin::Config config;
    if (!options.config_file.empty()) {
      config = plugin::Config::from_json_file(options.config_file);
    }
    for (const auto& [key, text] : options.settings) {
      config.set_from_text(key, text, "--" + with_dashes(key));
    }
    if (config.output_dir.empty()) {
      throw CommandError("no run directory: give -o RUN_DIR, or output_dir in the configuration", kExitUsage);
    }
    if (config.resume && options.overwrite) {
      throw CommandError(
          "--resume goes on with the run that RUN_DIR holds and --overwrite replaces it; give one of them", kExitUsage);
    }
    config.check();
    return config;
  } catch (const std::invalid_argument& error) {
    throw CommandError(plugin::one_line(error), kExitUsage);
  }
}

}  // namespace moetap::cli
