#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands/commands.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/interrupt.h"
#include "plugin/merge/merge_runs.h"

namespace moetap::cli {
namespace {

struct Options {
  std::vector<std::string> run_dirs;
  std::string output;
  plugin::MergeOptions merge;
};

std::string plural(int64_t number, const char* what, const char* whats) {
  return fmt::format("{} {}", number, number == 1 ? what : whats);
}

int merge(const Options& options) {
  const InterruptGuard interrupt;
  const auto check = [&] {
    if (interrupt.requested()) throw CommandError("interrupted; nothing is left of the merged run", kExitInterrupted);
  };
  const plugin::MergedRun merged = plugin::merge_runs(options.run_dirs, options.output, options.merge, check);
  fmt::print("{}: {} with {}, of {} of {}\n", options.output, plural(merged.forwards, "forward", "forwards"),
             plural(merged.entries, "log entry", "log entries"), plural(merged.ranks, "rank", "ranks"),
             plural(static_cast<int64_t>(options.run_dirs.size()), "run", "runs"));
  std::fflush(stdout);
  for (const std::string& line : merged.missing) fmt::print(stderr, "moetap: merge: {}\n", line);
  return 0;
}

}  // namespace

Command add_merge(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand("merge", "Make one run of several runs, and of all their ranks");
  app->add_option("RUN", options->run_dirs, "Directories of finished runs of one model and configuration")->required();
  app->add_option("-o,--output", options->output, "Directory of the merged run; it must not be there, or be empty")
      ->required()
      ->type_name("OUT");
  app->add_flag("--relabel", options->merge.relabel,
                "Number the samples of each run, or rank, behind those of the one before, in the order given");
  app->add_flag("--allow-missing", options->merge.allow_missing,
                "Merge what is there: without ranks that did not finish, and without the rows of damaged shards");
  app->footer(
      "The files are those of one process that ran all forwards, to the last bit, however they were split and in "
      "whatever order the runs are named (docs/runs.md). Runs of different models or configurations, and samples that "
      "two of them hold, are refused. Exit status: 0 done; 1 failed, 130 interrupted: nothing is left of OUT.");
  return {app, [options] { return merge(*options); }};
}

}  // namespace moetap::cli
