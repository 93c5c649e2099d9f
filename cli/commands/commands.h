#pragma once

#include <CLI/App.hpp>
#include <functional>

namespace moetap::cli {

/// A subcommand: once `app` was parsed, `execute` does the work and returns the exit status. It throws CommandError.
struct Command {
  CLI::App* app;
  std::function<int()> execute;
};

Command add_analyze(CLI::App& program);
Command add_check(CLI::App& program);
Command add_inspect(CLI::App& program);
Command add_instrument(CLI::App& program);
Command add_run(CLI::App& program);
Command add_export(CLI::App& program);
Command add_merge(CLI::App& program);
Command add_recover(CLI::App& program);
Command add_verify(CLI::App& program);
Command add_report(CLI::App& program);

}  // namespace moetap::cli
