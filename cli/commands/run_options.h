#pragma once

#include <CLI/App.hpp>
#include <map>
#include <string>
#include <vector>

#include "plugin/records/config.h"

namespace moetap::cli {

struct RunOptions {
  std::string model;
  std::vector<std::string> inputs;
  std::string config_file;
  std::map<std::string, std::string> settings;  // configuration key -> text from the command line
  bool save_outputs = false;
  bool overwrite = false;
};

/// Adds the options of `moetap run`: its own, and one for each key of the configuration.
void add_run_options(CLI::App& app, RunOptions& options);

/// The configuration file, overridden by the options of the command line. Throws CommandError with the exit status of a
/// wrong usage.
plugin::Config resolve_config(const RunOptions& options);

}  // namespace moetap::cli
