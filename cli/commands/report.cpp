#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands/commands.h"
#include "cli/report/page_data.h"
#include "cli/report/page_writer.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/interrupt.h"
#include "plugin/formats/atomic_file.h"

namespace moetap::cli {
namespace {

struct Options {
  PageInputs inputs;
  std::string output = "report.html";
  int64_t image_token = -1;
};

void check_options(Options& options) {
  PageInputs& inputs = options.inputs;
  if (inputs.folders.empty() && inputs.training_log.empty() && inputs.affinity.empty()) {
    throw CommandError("names nothing to show: give a run, an analysis, --training-log or --affinity", kExitUsage);
  }
  if (inputs.tokens.max_samples < 0 || inputs.tokens.max_tokens < 1) {
    throw CommandError("--max-samples takes 0 or more, --max-tokens 1 or more", kExitUsage);
  }
  std::error_code error;
  if (std::filesystem::is_directory(options.output, error)) {
    throw CommandError(options.output + ": is a folder; -o names the file of the page", kExitUsage);
  }
  if (!inputs.tokens.images.empty() && !std::filesystem::is_directory(inputs.tokens.images, error)) {
    throw CommandError(fmt::format("--images: {} is no folder", inputs.tokens.images), kExitUsage);
  }
  if (options.image_token >= 0) inputs.tokens.image_token = options.image_token;
}

int run_report(Options options) {
  check_options(options);
  const InterruptGuard interrupt;
  const auto check = [&] {
    if (interrupt.requested()) throw CommandError("interrupted; nothing is left of the report", kExitInterrupted);
  };
  const std::filesystem::path parent = std::filesystem::path(options.output).parent_path();
  std::error_code error;
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  if (error) throw CommandError(fmt::format("cannot write {}: {}", options.output, error.message()));
  const PageData data = page_data(options.inputs, parent.empty() ? "." : parent.string(), check);
  const std::string page = report_page(data.title, data.json);
  check();
  plugin::AtomicFile file(options.output,
                          data.has_tokens ? plugin::AtomicFile::Readers::kOwner : plugin::AtomicFile::Readers::kAll);
  file.write(page);
  file.commit();
  for (const Diagnostic& diagnostic : data.diagnostics) fmt::print("{}\n", diagnostic_line(diagnostic));
  fmt::print("{}\n", options.output);
  std::fflush(stdout);
  for (const std::string& line : data.notices) fmt::print(stderr, "moetap: report: {}\n", line);
  return 0;
}

}  // namespace

Command add_report(CLI::App& program) {
  auto options = std::make_shared<Options>();
  PageInputs& inputs = options->inputs;
  CLI::App* app = program.add_subcommand("report", "Write a page of figures that explains a model's routing");
  app->add_option("DIR", inputs.folders, "A run, two runs to compare, analyses of moetap analyze; in any order");
  app->add_option("-o,--output", options->output, "The page")->capture_default_str()->type_name("FILE");
  app->add_option("--title", inputs.title, "Title of the page; default: the names of the folders")->type_name("TEXT");
  app->add_option("--training-log", inputs.training_log, "Log of a training; default: training_log.txt in a DIR")
      ->type_name("FILE");
  app->add_option("--affinity", inputs.affinity, "Classes and experts; default: router_affinity_matrix.csv in a DIR")
      ->type_name("CSV");
  app->add_option("--max-samples", inputs.tokens.max_samples, "Samples whose tokens are shown; 0: none")
      ->capture_default_str()
      ->type_name("N");
  app->add_option("--max-tokens", inputs.tokens.max_tokens, "Tokens of a sample that are shown")
      ->capture_default_str()
      ->type_name("N");
  app->add_option("--tokenizer", inputs.tokens.vocabulary,
                  "tokenizer.json, or a JSON object of tokens and ids: tokens are shown as text")
      ->type_name("FILE");
  app->add_option("--images", inputs.tokens.images, "Pictures of the samples: DOC_ID.png, or as doc.image names them")
      ->type_name("FOLDER");
  app->add_option("--image-token", options->image_token,
                  "Id of an image's tokens; default: as --attention-regions tokens:image=ID said")
      ->type_name("ID");
  app->add_option("--grid", inputs.tokens.grid,
                  "Rows and columns of an image's tokens; default: from their number and its shape")
      ->type_name("ROWSxCOLUMNS");
  app->footer(
      "The page needs nothing but itself, no network either. It holds the names of folders, models and samples; where\n"
      "it holds tokens its mode is 0600, since expert ids alone give back most of a text. --max-samples 0 leaves them "
      "out.\n"
      "Exit status: 0 done; 1 failed, 130 interrupted: FILE is as it was before.");
  return {app, [options] { return run_report(*options); }};
}

}  // namespace moetap::cli
