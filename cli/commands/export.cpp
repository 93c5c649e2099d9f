#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands/commands.h"
#include "cli/exports/export_format.h"
#include "cli/exports/output_place.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/interrupt.h"
#include "plugin/run/run_losses.h"

namespace moetap::cli {
namespace {

struct Options {
  std::vector<std::string> run_dirs;
  std::string format, output;
  bool force = false;
  ExportOptions of_format;
};

const ExportFormat& find_format(const std::string& name) {
  std::string names;
  for (const ExportFormat& format : export_formats()) {
    if (name == format.name) return format;
    names += (names.empty() ? "" : ", ") + std::string(format.name);
  }
  throw CommandError(fmt::format("--to: \"{}\" is no format; the formats are {}", name, names), kExitUsage);
}

int run_export(const Options& options) {
  const ExportFormat& format = find_format(options.format);
  if (options.run_dirs.size() > 1 && !format.many_runs) {
    throw CommandError(fmt::format("--to {} takes one run, got {}", format.name, options.run_dirs.size()), kExitUsage);
  }
  // What each token did gives back most of a text (docs/exports.md): only the user may read it.
  if (format.token_level) ::umask(0077);
  const InterruptGuard interrupt;
  std::vector<plugin::RunReader> runs;
  for (const std::string& run_dir : options.run_dirs) runs.emplace_back(run_dir);
  OutputPlace place(options.output, format.kind, options.force);
  std::vector<std::string> notices, results;
  for (const std::string& run_dir : options.run_dirs) {
    const std::vector<std::string> losses = plugin::run_losses(run_dir);
    notices.insert(notices.end(), losses.begin(), losses.end());
  }
  const auto check = [&] {
    if (interrupt.requested()) throw CommandError("interrupted; nothing is left of the export", kExitInterrupted);
  };
  format.write({runs, options.of_format, place.temporary().string(), place.parent(), check, notices, results});
  check();
  place.commit();
  for (const std::string& line : results) fmt::print("{}\n", line);
  fmt::print("{}\n", place.path().string());
  std::fflush(stdout);
  for (const std::string& line : notices) fmt::print(stderr, "moetap: export: {}\n", line);
  return 0;
}

std::string formats_text() {
  std::string text = "Formats:\n";
  for (const ExportFormat& format : export_formats()) text += fmt::format("  {:<14}{}\n", format.name, format.doc);
  return text;
}

}  // namespace

Command add_export(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand("export", "Write a run's routing dump in the format of another tool");
  app->add_option("RUN_DIR", options->run_dirs, "Directory of a finished run; training-log takes several")->required();
  app->add_option("--to", options->format, "Format, see below")->required()->type_name("FORMAT");
  app->add_option("-o,--output", options->output, "What to write: a file or a folder, as the format says")
      ->required()
      ->type_name("PATH");
  app->add_flag("--force", options->force, "Replace the file, or the folder of an earlier export, that PATH names");
  ExportOptions& of_format = options->of_format;
  app->add_option("--component", of_format.component, "Only this component; default: all, each in a folder of its own")
      ->type_name("NAME");
  app->add_flag("--lists", of_format.lists, "parquet: columns indices and weights instead of e0, ... and w0, ...");
  app->add_flag("--logits", of_format.logits, "parquet: columns l0, ... as well; needs --dump full");
  app->add_option("--token-range", of_format.token_range,
                  "easysteer: a slice of the tokens, as Python's (--token-range=-4: for the last four)")
      ->type_name("A:B");
  app->add_option("--phase", of_format.phase, "easysteer: tokens of this phase")->type_name("prompt|generation");
  app->add_flag("--normalize", of_format.normalize, "easysteer: counts divided by the layer's tokens");
  app->add_flag("--split-by-samples", of_format.split_samples, "easysteer: a list with a result a sample");
  app->add_option("--sample", of_format.sample, "easysteer: this sample")->type_name("I");
  app->add_option("--top-k", of_format.top_k, "easysteer: choose K again from the logits")->type_name("K");
  app->add_option("--suffix", of_format.suffix, "libmoe: the suffix in the folder's name; default: the task");
  app->footer(formats_text() +
              "Padding is in none of them. Expert ids alone give back most of a text: files of tokens have mode 0600.\n"
              "Exit status: 0 done; 1 failed, 130 interrupted: PATH is as it was before.");
  return {app, [options] { return run_export(*options); }};
}

}  // namespace moetap::cli
