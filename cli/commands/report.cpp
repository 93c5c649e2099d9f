#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands/commands.h"
#include "cli/commands/study_arguments.h"
#include "cli/report/figure_files.h"
#include "cli/report/page_data.h"
#include "cli/report/page_server.h"
#include "cli/report/page_writer.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/interrupt.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/temporary_path.h"
#include "plugin/run/run_ranks.h"

namespace moetap::cli {
namespace {

struct Options {
  PageInputs inputs;
  StudyArguments studies;
  std::string colorscale = "minimax";
  int64_t max_tokens = 0;  // 0: each view's own number
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
  inputs.studies = options.studies.parsed();
  inputs.num_threads = options.studies.num_threads;
  inputs.tokens.vocabulary = inputs.studies.tokenizer;
  if (inputs.paths.empty() && inputs.training_log.empty() && inputs.affinity.empty() &&
      inputs.studies.positive.empty() && inputs.studies.negative.empty() && inputs.studies.models.empty()) {
    throw CommandError("names nothing to show: give a run, arrays, an analysis, --training-log or --affinity",
                       kExitUsage);
  }
  if (options.max_tokens > 0) inputs.tokens.max_tokens = inputs.surfaces.max_tokens = options.max_tokens;
  inputs.surfaces.colors = parse_colorscale(options.colorscale);
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

/// "version 3: run 132 forwards, still recorded; 20 epochs", for the line on the terminal.
std::string progress_of(const PageData& data, int64_t version) {
  std::string line = fmt::format("version {}", version);
  const char* sign = ": ";
  const auto add = [&](const std::string& part) {
    line += sign + part;
    sign = "; ";
  };
  for (const auto& run : data.json["runs"]) {
    const auto unfinished = run.find("unfinished");
    const std::string label = run["label"].get<std::string>();
    if (unfinished == run.end()) {
      add(fmt::format("{} {} forwards, done", label, run["forwards"].dump()));
    } else {
      add(fmt::format("{} {} forwards, {}", label, (*unfinished)["forwards"].get<int64_t>(),
                      (*unfinished)["recording"].get<bool>() ? "still recorded" : "its process died"));
    }
  }
  if (data.json.contains("training") && data.json["training"].contains("epochs"))
    add(fmt::format("{} epochs", data.json["training"]["epochs"].size()));
  return line;
}

/// A line on stderr that is written anew; nothing where that is no terminal.
class StatusLine {
 public:
  ~StatusLine() {
    if (shown_) fmt::print(stderr, "\n");
  }
  void show(const std::string& text) {
    if (::isatty(STDERR_FILENO) == 0) return;
    fmt::print(stderr, "\rmoetap: report: {}\x1b[K", text);
    std::fflush(stderr);
    shown_ = true;
  }

 private:
  bool shown_ = false;
};

/// True if a run has begun and may not have recorded a forward yet.
bool has_begun(const PageInputs& inputs) {
  return std::any_of(inputs.paths.begin(), inputs.paths.end(),
                     [](const std::string& path) { return !plugin::find_run_ranks(path).unfinished.empty(); });
}

/// Serves the page until Ctrl-C, and makes it anew when an input changed. Inputs that cannot be read now (a file that
/// is being written) leave the last page, and the line says why.
int watch(const Options& options, const std::string& scratch_folder, const InterruptGuard& interrupt,
          const std::function<void()>& check) {
  using Clock = std::chrono::steady_clock;
  constexpr int kPauseMs = 500;
  PageServer server;
  KnownStudies studies;
  StatusLine line;
  std::string state;
  int64_t version = 0;
  auto next = Clock::now();
  while (!interrupt.requested()) {
    const std::string now = state_of(options.inputs);
    if ((version == 0 || now != state) && Clock::now() >= next) {
      const auto begin = Clock::now();
      try {
        PageData data = page_data(options.inputs, scratch_folder, check, &studies);
        data.json["watched"] = ++version;
        server.set_page(report_page(data.title, data.json, PageConnections::kServer), version);
        state = now;
        if (version == 1) fmt::print("{}\n", server.address());
        std::fflush(stdout);
        line.show(progress_of(data, version) + "; Ctrl-C ends");
      } catch (const std::exception& error) {
        if (version == 0 && !has_begun(options.inputs)) throw;
        check();
        line.show(version == 0 ? fmt::format("waits: {}", error.what())
                               : fmt::format("version {} stays: {}", version, error.what()));
      }
      // A long run is read as often as that leaves time for: at most a third of it.
      next = Clock::now() + 2 * (Clock::now() - begin);
    }
    server.serve_for(kPauseMs);
  }
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
  if (options.watch) options.inputs.unfinished = UnfinishedRun::kShow;
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
  app->add_option("INPUT", inputs.paths,
                  "A run, two runs to compare, or arrays and what else moetap analyze takes; analyses of moetap "
                  "analyze; in any order");
  app->add_option("-o,--output", options->output, "The page")->capture_default_str()->type_name("FILE");
  app->add_flag("--force", options->force, "Replace FILE even if it is no report");
  app->add_option("--split", options->split, "Each figure also as a page of its own in this folder, 5 MB each")
      ->type_name("FOLDER");
  app->add_flag("--watch", options->watch,
                "Serve the page on 127.0.0.1 instead, and renew it as its inputs grow; Ctrl-C ends");
  app->add_option("--title", inputs.title, "Title of the page; default: the names of the inputs")->type_name("TEXT");
  app->add_option("--training-log", inputs.training_log, "Log of a training; default: training_log.txt in a folder")
      ->type_name("FILE");
  app->add_option("--affinity", inputs.affinity, "Classes and experts; default: router_affinity_matrix.csv in a folder")
      ->type_name("CSV");
  app->add_option("--max-samples", inputs.tokens.max_samples, "Samples whose tokens are shown; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->type_name("N");
  app->add_option("--max-tokens", options->max_tokens,
                  "Tokens of a sample (default 256) and of the activation surfaces (50) that are shown")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--images", inputs.tokens.images, "Pictures of the samples: DOC_ID.png, or as doc.image names them")
      ->type_name("FOLDER");
  app->add_option("--image-token", options->image_token,
                  "Id of an image's tokens; default: as --attention-regions tokens:image=ID said")
      ->type_name("ID");
  app->add_option("--grid", inputs.tokens.grid,
                  "Rows and columns of an image's tokens; default: from their number and its shape")
      ->type_name("ROWSxCOLUMNS");
  app->add_option("--max-layers", inputs.surfaces.max_layers, "Layers of the activation surfaces, taken evenly")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->type_name("N");
  app->add_option("--max-experts", inputs.surfaces.max_experts, "Experts of the activation surfaces, the first ones")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->type_name("N");
  app->add_option("--colorscale", options->colorscale,
                  "Of the activation surfaces: minimax, viridis, cividis, plasma, inferno, magma, greys, or colours: "
                  "#19448e,#f4b3c2")
      ->capture_default_str()
      ->type_name("NAME");
  app->add_flag("!--no-studies", inputs.makes_studies, "Show what the runs hold, make no studies of their dumps");
  add_study_arguments(app, options->studies, "Studies, as in moetap analyze");
  app->footer(
      "Studies (moetap analyze --list) are made in passing, unless an analysis is given.\n"
      "The page needs nothing but itself, no network either. It holds the names of folders, models and samples; where\n"
      "it holds tokens its mode is 0600, since expert ids alone give back most of a text. --max-samples 0 leaves them "
      "out.\n"
      "Exit status: 0 done; 1 failed, 130 interrupted: FILE is as it was before.");
  return {app, [options] { return run_report(*options); }};
}

}  // namespace moetap::cli
