#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands/commands.h"
#include "cli/report/figure_files.h"
#include "cli/report/page_data.h"
#include "cli/report/page_server.h"
#include "cli/report/page_writer.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/interrupt.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/temporary_path.h"

namespace moetap::cli {
namespace {

struct Options {
  PageInputs inputs;
  std::string output = "report.html";
  std::string split;  // folder; "": none
  int64_t image_token = -1;
  bool force = false;
  bool watch = false;
};

/// True for pages that this command wrote. A file that cannot be read is none.
bool is_page(const std::string& path) {
  constexpr size_t kHead = 4096;
  std::ifstream file(path, std::ios::binary);
  std::string head(kHead, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  return head.find("<meta name=\"generator\" content=\"moetap report\">") != std::string::npos;
}

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
  if (!options.force && std::filesystem::exists(options.output, error) && !is_page(options.output)) {
    throw CommandError(options.output + ": is there and no report; --force replaces it");
  }
  if (!inputs.tokens.images.empty() && !std::filesystem::is_directory(inputs.tokens.images, error)) {
    throw CommandError(fmt::format("--images: {} is no folder", inputs.tokens.images), kExitUsage);
  }
  if (options.image_token >= 0) inputs.tokens.image_token = options.image_token;
}

void write_page(const std::string& path, const std::string& page, const PageData& data) {
  plugin::remove_left_temporaries(path);
  plugin::AtomicFile file(path,
                          data.has_tokens ? plugin::AtomicFile::Readers::kOwner : plugin::AtomicFile::Readers::kAll);
  file.write(page);
  file.commit();
}

/// Each figure that has data as a page of its own.
void write_figures(const std::string& folder, PageData& data, const std::function<void()>& check) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw CommandError(fmt::format("cannot write {}: {}", folder, error.message()));
  for (const FigureFile& file : figures_with_data(data.json)) {
    check();
    data.json["only"] = file.figure;
    write_page((std::filesystem::path(folder) / (std::string(file.name) + ".html")).string(),
               report_page(data.title, data.json), data);
  }
  data.json.erase("only");
}

/// Sizes and times of all that a page is made of; a change of it means that something grew.
std::string state_of(const PageInputs& inputs) {
  std::string state;
  std::error_code error;
  const auto add = [&](const std::filesystem::path& path) {
    const auto time = std::filesystem::last_write_time(path, error);
    if (error) return;
    state += fmt::format("{} {} {};", path.string(), std::filesystem::file_size(path, error),
                         time.time_since_epoch().count());
  };
  for (const std::string& file : {inputs.training_log, inputs.affinity}) {
    if (!file.empty()) add(file);
  }
  for (const std::string& folder : inputs.folders) {
    for (const char* name :
         {"analysis.json", "training_log.txt", "router_affinity_matrix.csv", "moetap/summary.json"}) {
      add(std::filesystem::path(folder) / name);
    }
  }
  return state;
}

/// Serves the page until Ctrl-C, and makes it anew when an input changed. Inputs that cannot be read now (a file that
/// is being written) leave the last page.
int watch(const Options& options, const std::string& scratch_folder, const InterruptGuard& interrupt,
          const std::function<void()>& check) {
  constexpr int kPauseMs = 500;
  PageServer server;
  std::string state;
  int64_t version = 0;
  while (!interrupt.requested()) {
    const std::string now = state_of(options.inputs);
    if (version == 0 || now != state) {
      try {
        PageData data = page_data(options.inputs, scratch_folder, check);
        data.json["watched"] = ++version;
        server.set_page(report_page(data.title, data.json, PageConnections::kServer), version);
        state = now;
        if (version == 1) fmt::print("{}\n", server.address());
        std::fflush(stdout);
        const size_t epochs = data.json.contains("training") && data.json["training"].contains("epochs")
                                  ? data.json["training"]["epochs"].size()
                                  : 0;
        if (::isatty(STDERR_FILENO) != 0)
          fmt::print(stderr, "\rmoetap: report: version {}, {} runs, {} epochs; Ctrl-C ends ", version,
                     data.json["runs"].size(), epochs);
      } catch (const std::exception&) {
        if (version == 0) throw;
        check();
      }
    }
    server.serve_for(kPauseMs);
  }
  if (::isatty(STDERR_FILENO) != 0) fmt::print(stderr, "\n");
  return 0;
}

int run_report(Options options) {
  check_options(options);
  const InterruptGuard interrupt;
  const auto check = [&] {
    if (!interrupt.requested()) return;
    const std::string left =
        options.split.empty() ? "nothing is left of the report" : fmt::format("pages in {} may be left", options.split);
    throw CommandError("interrupted; " + left, kExitInterrupted);
  };
  const std::filesystem::path parent = std::filesystem::path(options.output).parent_path();
  std::error_code error;
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  if (error) throw CommandError(fmt::format("cannot write {}: {}", options.output, error.message()));
  if (options.watch) return watch(options, parent.empty() ? "." : parent.string(), interrupt, check);
  PageData data = page_data(options.inputs, parent.empty() ? "." : parent.string(), check);
  const std::string page = report_page(data.title, data.json);
  check();
  if (!options.split.empty()) write_figures(options.split, data, check);
  write_page(options.output, page, data);
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
  app->add_flag("--force", options->force, "Replace FILE even if it is no report");
  app->add_option("--split", options->split, "Each figure also as a page of its own in this folder, 5 MB each")
      ->type_name("FOLDER");
  app->add_flag("--watch", options->watch,
                "Serve the page on 127.0.0.1 instead, and renew it as its inputs grow; Ctrl-C ends");
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
