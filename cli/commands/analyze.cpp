#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>

#include "cli/commands/commands.h"
#include "cli/commands/study_arguments.h"
#include "cli/exports/output_place.h"
#include "cli/studies/option_readers.h"
#include "cli/studies/result_files.h"
#include "cli/studies/study_run.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/interrupt.h"

namespace moetap::cli {
namespace {

constexpr const char* kPartial = "partial.bin";

struct Options {
  std::vector<std::string> inputs, partials;
  std::string output, shard;
  bool force = false, list = false;
  StudyArguments studies;
};

std::string list_text() {
  std::string text;
  for (const studies::StudyEntry& entry : studies::all_studies()) {
    text += fmt::format("{}\n  {}\n  needs {}{}\n", entry.name, entry.question, missing_input(entry, 0),
                        entry.by_name_only ? "; runs only where --only names it" : "");
  }
  return text;
}

/// "2/8": the third of eight.
Shard parse_shard(const std::string& text) {
  Shard shard;
  if (text.empty()) return shard;
  const char* end = text.data() + text.size();
  const auto index = std::from_chars(text.data(), end, shard.index);
  const bool has_slash = index.ec == std::errc{} && index.ptr != end && *index.ptr == '/';
  const auto count = has_slash ? std::from_chars(index.ptr + 1, end, shard.count) : index;
  if (!has_slash || count.ec != std::errc{} || count.ptr != end || shard.count < 1 || shard.count > (1 << 20) ||
      shard.index < 0 || shard.index >= shard.count) {
    throw CommandError(fmt::format("--shard: must be I/N with 0 <= I < N, got \"{}\"", text), kExitUsage);
  }
  return shard;
}

/// Options that `--merge` takes: all else is in the partials.
bool is_for_merging(const CLI::Option& option) {
  const auto is = [&](const char* name) { return option.check_name(name); };
  return is("--merge") || is("--output") || is("--force") || is("--help");
}

void check_usage(const Options& options, const CLI::App& app) {
  const auto usage = [](const std::string& line) { throw CommandError(line, kExitUsage); };
  if (options.output.empty()) usage("-o OUT_DIR is missing: where to write the tables");
  if (!options.partials.empty()) {
    if (!options.inputs.empty()) usage("--merge takes partials and no other inputs");
    for (const CLI::Option* option : app.get_options()) {
      if (option->count() > 0 && !is_for_merging(*option)) {
        usage(fmt::format("--merge and {} exclude each other: a partial holds its options", option->get_name()));
      }
    }
    return;
  }
  const AnalyzeOptions& of = options.studies.options;
  if (options.inputs.empty() && of.positive.empty() && of.negative.empty() && of.models.empty()) {
    usage("no input; name a run, a folder of arrays or a log, or see moetap analyze --help");
  }
}

std::vector<std::string> given_options(const CLI::App& app) {
  std::vector<std::string> given;
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() > 0) given.push_back(option->get_name());
  }
  return given;
}

StudySums merge_partials(const std::vector<std::string>& paths, const std::function<void()>& check) {
  std::vector<Partial> partials;
  for (const std::string& path : paths) {
    check();
    partials.push_back(read_partial(path));
  }
  check_partials(partials, paths);
  const std::string version = partials.front().what.value("moetap_version", "");
  if (version != MOETAP_VERSION) {
    throw CommandError(fmt::format("{}: was written by moetap {}, this is {}; merge with the same", paths.front(),
                                   version, MOETAP_VERSION));
  }
  size_t at = 0;
  try {
    StudySums sums(AnalysisPlan::from_json(partials.front().what));
    for (; at < partials.size(); ++at) {
      check();
      sums.merge(partials[at]);
    }
    return sums;
  } catch (const CommandError&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw CommandError(fmt::format("{}: {}", paths[at], error.what()));
  } catch (const nlohmann::json::exception&) {
    throw CommandError(fmt::format("{}: is damaged: its header is none of a partial", paths.front()));
  }
}

void print_results(const Analysis& analysis) {
  for (const StudyResult& of : analysis.results) {
    if (of.study == "input_check") continue;
    const bool many = std::count_if(analysis.results.begin(), analysis.results.end(),
                                    [&](const StudyResult& other) { return other.study == of.study; }) > 1;
    fmt::print("{}{}: {}\n", of.study, many ? " (" + of.component + ")" : "", of.result.sentence);
  }
  for (const StudyLeftOut& of : analysis.left_out) fmt::print("not run: {}: needs {}\n", of.study, of.needs);
}

void print_notices(const Analysis& analysis) {
  std::fflush(stdout);
  std::vector<std::string> lines = analysis.notices;
  for (const StudyResult& of : analysis.results) {
    for (const std::string& line : of.result.notices) {
      lines.push_back(of.study == "input_check" ? line : of.study + ": " + line);
    }
  }
  for (const std::string& line : lines) fmt::print(stderr, "moetap: analyze: {}\n", line);
}

int run_analyze(const Options& options, const CLI::App& app) {
  if (options.list) {
    fmt::print("{}", list_text());
    return 0;
  }
  check_usage(options, app);
  const Shard shard = parse_shard(options.shard);
  const InterruptGuard interrupt;
  const auto check = [&] {
    if (interrupt.requested()) throw CommandError("interrupted; nothing is left of the analysis", kExitInterrupted);
  };
  OutputPlace place(options.output, OutputKind::kFolder, options.force, "analyze");
  Analysis analysis;
  if (!options.partials.empty()) {
    analysis = merge_partials(options.partials, check).finalize();
  } else {
    const AnalyzeOptions of_studies = options.studies.parsed();
    OpenStudies studies({options.inputs, of_studies, place.parent(), check, shard, options.studies.num_threads});
    require_studies(studies.plan());
    studies.add_notices(unread_options(given_options(app), studies.plan()));
    StudySums sums = studies.observe();
    if (!options.shard.empty()) {
      sums.check_input();
      write_partial(sums.to_partial(shard.index, shard.count), (place.temporary() / kPartial).string());
      check();
      place.commit();
      fmt::print("{}\n", (place.path() / kPartial).string());
      return 0;
    }
    analysis = sums.finalize();
  }
  write_analysis(analysis, place.temporary().string(), check);
  check();
  place.commit();
  print_results(analysis);
  fmt::print("{}\n", place.path().string());
  print_notices(analysis);
  return 0;
}

}  // namespace

Command add_analyze(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app =
      program.add_subcommand("analyze", "Studies of what the experts did, from a finished run or from arrays");
  app->add_option(
      "INPUT", options->inputs,
      "A run's directory, several runs of one model as one input, a folder of arrays (.npy), LibMoE's <task>.json, "
      "logits (.safetensors, .pt), routed ids (.npy [S, L, K]) or Parquet; two are compared, too");
  app->add_option("-o,--output", options->output, "Folder to write: a CSV a table, and analysis.json")
      ->type_name("OUT_DIR");
  app->add_flag("--force", options->force, "Replace the folder of an earlier analysis");
  app->add_flag("--list", options->list, "List the studies: what each answers and needs");
  app->add_option("--shard", options->shard, "Take the I-th of N shares and write OUT_DIR/partial.bin")
      ->type_name("I/N");
  app->add_option("--merge", options->partials, "Merge the partials of all shares; the result is that of one process")
      ->type_name("PARTIAL...");
  add_study_arguments(app, options->studies);
  app->add_flag("--matrices", options->studies.options.matrices, "Write matrices as .npy, too");
  app->footer(
      "See docs/studies.md. A study that lacks its input is listed with what would fill it.\n"
      "Exit status: 0 done; 1 failed, 130 interrupted: OUT_DIR is as it was before.");
  return {app, [options, app] { return run_analyze(*options, *app); }};
}

}  // namespace moetap::cli
