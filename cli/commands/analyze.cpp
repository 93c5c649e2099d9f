#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <thread>

#include "cli/commands/commands.h"
#include "cli/exports/output_place.h"
#include "cli/studies/analysis_job.h"
#include "cli/studies/option_readers.h"
#include "cli/studies/result_files.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/interrupt.h"
#include "cli/terminal/progress.h"

namespace moetap::cli {
namespace {

constexpr const char* kPartial = "partial.bin";

struct Options {
  std::vector<std::string> inputs, partials;
  std::string output, shard, only, phase, cache_phase;
  bool force = false, list = false;
  int num_threads = 0;
  AnalyzeOptions of_studies;
};

std::string list_text() {
  std::string text;
  for (const studies::StudyEntry& entry : studies::all_studies()) {
    text += fmt::format("{}\n  {}\n  needs {}{}\n", entry.name, entry.question, missing_input(entry, 0),
                        entry.by_name_only ? "; runs only where --only names it" : "");
  }
  return text;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
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
  const AnalyzeOptions& of = options.of_studies;
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

/// Usage counts all tokens and the cache those that are generated, unless the user says otherwise.
void set_phases(Options& options) {
  studies::StudyOptions& study = options.of_studies.study;
  study.phase = options.phase == "all" ? "" : options.phase;
  if (!options.phase.empty()) study.cache_phase = options.phase;
  if (!options.cache_phase.empty()) study.cache_phase = options.cache_phase;
}

/// A bar that follows what the passes report.
class PassProgress {
 public:
  void show(int64_t done, int64_t total) {
    if (!progress_ || total != total_ || done < done_) {
      progress_ = std::make_unique<Progress>("% of a pass", 100);
      total_ = total;
      percent_ = 0;
    }
    done_ = done;
    for (; percent_ < 100 * done / std::max<int64_t>(total, 1); ++percent_) progress_->advance();
  }
  void clear() { progress_.reset(); }

 private:
  std::unique_ptr<Progress> progress_;
  int64_t total_ = -1, done_ = 0, percent_ = 0;
};

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

int run_analyze(Options options, const CLI::App& app) {
  if (options.list) {
    fmt::print("{}", list_text());
    return 0;
  }
  check_usage(options, app);
  options.of_studies.only = split(options.only);
  set_phases(options);
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
    StudyInputs inputs(options.inputs, {options.of_studies, place.parent(), check});
    AnalysisPlan plan = plan_analysis(inputs, options.of_studies);
    for (std::string& line : unread_options(given_options(app), plan)) plan.notices.push_back(std::move(line));
    StudySums sums(std::move(plan));
    PassProgress progress;
    PassOptions passes;
    passes.shard = shard;
    const auto cores = static_cast<int>(std::max(std::thread::hardware_concurrency(), 1U));
    passes.num_threads = options.num_threads > 0 ? options.num_threads : cores;
    passes.check = check;
    passes.progress = [&](int64_t done, int64_t total) { progress.show(done, total); };
    observe_inputs(inputs, sums, passes);
    progress.clear();
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

void add_study_options(CLI::App* app, AnalyzeOptions& of) {
  app->add_option("--definitions", of.definitions, "recommended (default), or notebook: its numbers, bugs included")
      ->check(CLI::IsMember({"recommended", "notebook"}))
      ->type_name("NAME");
  app->add_option("--gate", of.gate, "raw (default), or topk: a token's gates divided by their sum over its experts")
      ->check(CLI::IsMember({"raw", "topk"}))
      ->type_name("NAME");
  app->add_option("--component", of.component, "Only this component")->type_name("NAME");
  app->add_option("--top-k", of.top_k, "Logits: how many experts a token chooses")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("K");
  app->add_option("--experts", of.num_experts, "Routed ids: how many experts there are; default: the largest id + 1")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("E");
  app->add_option("--group-by", of.group_by, "Groups of samples: a field of their doc, or phase")->type_name("KEY");
  app->add_option("--samples", of.samples_file, "The samples' docs, if the file that the run was recorded with is gone")
      ->type_name("FILE");
  app->add_option("--sample", of.study.sample, "The Sankeys' sample, by number")->type_name("I");
  app->add_option("--layer", of.layer, "The Sankeys' layer, by id")->type_name("ID");
  app->add_option("--token-range", of.study.token_range, "usage: a slice of the tokens, as Python's")->type_name("A:B");
  app->add_flag("--warm", of.study.warm, "expert_cache: keep the cache from sample to sample");
  app->add_option("--placement", of.placement, "placement: JSON, layer -> GPU of each expert")->type_name("FILE");
  app->add_option("--tokenizer", of.tokenizer, "Texts of token ids: a tokenizer.json")->type_name("FILE");
  app->add_option("--alphabet", of.alphabet, "Texts of token ids: letter i is id i")->type_name("LETTERS");
  app->add_option("--model", of.models,
                  "Weights of routers and experts: a TorchScript model, or one of each of two runs")
      ->type_name("MODEL.pt...");
  app->add_option("--positive", of.positive, "FASTA files of the positive set")->type_name("FILE...");
  app->add_option("--negative", of.negative, "FASTA files of the negative set")->type_name("FILE...");
  app->add_option("--max-length", of.study.max_length, "aa_correlation: leave out longer sequences")->type_name("N");
  app->add_option("--regions", of.study.regions, "information_flow: parts of a sequence (default 5)")
      ->check(CLI::Range(int64_t{1}, studies::kMaxRegions))
      ->type_name("R");
  app->add_flag("--absolute-regions", of.study.absolute_regions, "information_flow: parts of the padded length");
  app->add_option("--top", of.study.top, "Sankeys: how many experts")->check(CLI::NonNegativeNumber)->type_name("N");
  app->add_option("--threshold", of.study.threshold, "Sankeys: leave out links below")->type_name("X");
  app->add_option("--link-share", of.study.link_share, "sankey_group_expert_region: leave out links below this share")
      ->type_name("X");
  app->add_flag("--matrices", of.matrices, "Write matrices as .npy, too");
  app->add_option("--draws", of.study.draws, "groups: draws of the bootstrap and of the permutation (default 1000)")
      ->check(CLI::Range(int64_t{1}, studies::kMaxDraws))
      ->type_name("N");
  app->add_option("--seed", of.study.seed, "groups: of the draws")->type_name("N");
  app->add_option("--delta-max", of.study.delta_max,
                  "layer_activation: pairs of layers up to so far apart (default 30)")
      ->check(CLI::Range(int64_t{1}, studies::kMaxDelta))
      ->type_name("N");
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
  app->add_option("--only", options->only, "Only these studies, by name")->type_name("NAME,NAME");
  app->add_option("--shard", options->shard, "Take the I-th of N shares and write OUT_DIR/partial.bin")
      ->type_name("I/N");
  app->add_option("--merge", options->partials, "Merge the partials of all shares; the result is that of one process")
      ->type_name("PARTIAL...");
  app->add_option("--threads", options->num_threads, "Threads; default: one a core")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  app->add_option("--phase", options->phase, "usage: tokens of this phase; expert_cache: accesses that count")
      ->check(CLI::IsMember({"prompt", "generation", "all"}))
      ->type_name("prompt|generation|all");
  app->add_option("--cache-phase", options->cache_phase, "expert_cache alone (default generation)")
      ->check(CLI::IsMember({"prompt", "generation", "all"}))
      ->type_name("prompt|generation|all");
  add_study_options(app, options->of_studies);
  app->footer(
      "See docs/studies.md. A study that lacks its input is listed with what would fill it.\n"
      "Exit status: 0 done; 1 failed, 130 interrupted: OUT_DIR is as it was before.");
  return {app, [options, app] { return run_analyze(*options, *app); }};
}

}  // namespace moetap::cli
