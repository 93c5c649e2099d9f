#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "cli/commands/commands.h"
#include "cli/terminal/command_error.h"
#include "plugin/operators.h"
#include "plugin/process/error_text.h"

namespace {

using moetap::cli::CommandError;

int report(const std::string& line, int exit_status) {
  std::fflush(stdout);
  std::string text = "moetap: " + line;
  std::replace(text.begin(), text.end(), '\n', ' ');
  std::fprintf(stderr, "%s\n", text.c_str());
  return exit_status;
}

bool has_command(const CLI::App& program, const std::string& name) {
  return !program.get_subcommands([&](const CLI::App* app) { return app->get_name() == name; }).empty();
}

int run_program(int argc, char** argv) {
  CLI::App program("Shows what the experts of a Mixture-of-Experts model do while it runs.", "moetap");
  program.set_version_flag("--version", "moetap " MOETAP_VERSION);
  program.set_help_flag("-h,--help", "Print this help and exit");
  program.require_subcommand(1);
  program.footer(
      "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C). Each command has a --help of its own.");
  const std::array commands = {moetap::cli::add_inspect(program), moetap::cli::add_instrument(program),
                               moetap::cli::add_run(program),     moetap::cli::add_recover(program),
                               moetap::cli::add_verify(program),  moetap::cli::add_merge(program),
                               moetap::cli::add_analyze(program), moetap::cli::add_check(program),
                               moetap::cli::add_report(program),  moetap::cli::add_export(program)};
  if (argc > 1 && argv[1][0] != '-' && !has_command(program, argv[1])) {
    std::string names;
    for (const auto& command : commands) names += (names.empty() ? "" : ", ") + command.app->get_name();
    return report(std::string(argv[1]) + ": no such command; the commands are " + names, moetap::cli::kExitUsage);
  }
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      return program.exit(error);  // --help, --version
    }
    const auto parsed = program.get_subcommands();
    const std::string command = parsed.empty() ? "" : " " + parsed.front()->get_name();
    return report(std::string(error.what()) + "; see moetap" + command + " --help", moetap::cli::kExitUsage);
  }
  for (const auto& command : commands) {
    if (!command.app->parsed()) {
      continue;
    }
    try {
      return command.execute();
    } catch (const CommandError& error) {
      return report(command.app->get_name() + ": " + error.what(), error.exit_status());
    } catch (const std::exception& error) {
      return report(command.app->get_name() + ": " + moetap::plugin::one_line(error), moetap::cli::kExitFailed);
    }
  }
  return moetap::cli::kExitUsage;
}

/// A libmoetap.so that was preloaded into this program takes the operators from the program's own code and records
/// nothing for it. Then the program starts anew without it: the library took itself out of LD_PRELOAD when it was
/// loaded. Returns true if the operators are the program's own, false if starting anew did not help.
bool restart_without_library(char** argv) {
  constexpr const char* kRestarted = "MOETAP_PROGRAM_RESTARTED";
  const bool restarted = std::getenv(kRestarted) != nullptr;
  ::unsetenv(kRestarted);
  if (moetap::plugin::operator_owner() != moetap::plugin::OperatorOwner::kAnotherCopy) {
    return true;
  }
  if (!restarted) {
    ::setenv(kRestarted, "1", /*overwrite=*/1);
    ::execv("/proc/self/exe", argv);
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (!restart_without_library(argv)) {
    return report("libmoetap.so is loaded into this program, which needs none: start it without (LD_PRELOAD)",
                  moetap::cli::kExitFailed);
  }
  return run_program(argc, argv);
}
