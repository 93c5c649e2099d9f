#include "cli/report/page_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "analysis/studies/study_registry.h"
#include "cli/report/affinity_matrix.h"
#include "cli/report/analysis_data.h"
#include "cli/report/expert_cuts.h"
#include "cli/report/page_writer.h"
#include "cli/report/run_data.h"
#include "cli/report/size_budget.h"
#include "cli/studies/study_inputs.h"
#include "cli/terminal/command_error.h"
#include "plugin/journal/journal_lock.h"
#include "plugin/journal/run_journal.h"
#include "plugin/run/run_paths.h"
#include "plugin/run/run_ranks.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;
// Shares of what is left of a page: see PageBudget.
constexpr int64_t kPairsShare = 3, kTokensShare = 4, kImagesShare = 4, kStudiesShare = 5;
constexpr int64_t kExpertsShare = 2, kOthersShare = 3;  // of all of them
constexpr const char* kTrainingLog = "training_log.txt";
constexpr const char* kAffinity = "router_affinity_matrix.csv";

/// The user's paths by what they are; a folder may be several things at once.
struct SortedPaths {
  std::vector<std::string> runs, analyses, arrays;
};

bool has_file(const std::string& folder, const char* name) {
  std::error_code error;
  return fs::is_regular_file(fs::path(folder) / name, error);
}

bool is_run(const std::string& folder) {
  std::error_code error;
  return fs::is_directory(fs::path(folder) / "moetap", error);
}

SortedPaths sort_paths(const PageInputs& inputs) {
  SortedPaths sorted;
  for (const std::string& path : inputs.paths) {
    const bool analysis = is_analysis(path), run = is_run(path);
    const bool training = has_file(path, kTrainingLog) || has_file(path, kAffinity);
    if (analysis) sorted.analyses.push_back(path);
    if (run) sorted.runs.push_back(path);
    if (analysis || run || training) continue;
    if (StudyInputs::takes(path)) {
      sorted.arrays.push_back(path);
      continue;
    }
    std::error_code error;
    const char* what = !fs::exists(path, error) ? "there is no such file or folder"
                                                : "is no run (moetap/), no analysis (analysis.json), no training log "
                                                  "and no arrays (topk_idx.npy, ...)";
    throw CommandError(fmt::format("{}: {}", path, what));
  }
  if (sorted.runs.size() > 2)
    throw CommandError(fmt::format("takes one run, or two to compare, got {}", sorted.runs.size()), kExitUsage);
  if (!sorted.runs.empty() && !sorted.arrays.empty()) {
    throw CommandError(
        fmt::format("{} is a run and {} is none; name inputs of one kind", sorted.runs.front(), sorted.arrays.front()),
        kExitUsage);
  }
  return sorted;
}

/// The file that the user named, else the one that lies in a folder; "": none.
std::string file_in(const std::string& named, const std::vector<std::string>& folders, const char* name) {
  if (!named.empty()) return named;
  for (const std::string& folder : folders) {
    if (has_file(folder, name)) return (fs::path(folder) / name).string();
  }
  return "";
}

std::string title_of(const PageInputs& inputs) {
  if (!inputs.title.empty()) return inputs.title;
  std::string names;
  for (size_t i = 0; i < inputs.paths.size(); ++i)
    names += (i == 0 ? "" : i + 1 == inputs.paths.size() ? " and " : ", ") + folder_name(inputs.paths[i]);
  if (!names.empty()) return "Routing in " + names;
  return inputs.training_log.empty() && inputs.affinity.empty() ? "Sequences" : "Training of a router";
}

void add_training(const PageInputs& inputs, PageData& data) {
  const std::string log = file_in(inputs.training_log, inputs.paths, kTrainingLog);
  const std::string affinity = file_in(inputs.affinity, inputs.paths, kAffinity);
  if (!log.empty()) data.json["training"] = read_training_log(log, data.diagnostics);
  if (!affinity.empty()) data.json["affinity"] = read_affinity_matrix(affinity, data.diagnostics);
  if (!log.empty() || !affinity.empty()) data.json["training"]["diagnostics"] = diagnostics_json(data.diagnostics);
}

/// Size and time of a file; "" where there is none.
std::string state_of_file(const fs::path& path) {
  std::error_code error;
  const auto time = fs::last_write_time(path, error);
  if (error) return "";
  return fmt::format("{} {} {};", path.string(), fs::file_size(path, error), time.time_since_epoch().count());
}

/// Which ranks are done, how far the others are, and whether a process records them.
std::string state_of_runs(const std::vector<std::string>& folders) {
  std::string state;
  for (const std::string& folder : folders) {
    state += state_of_file(fs::path(folder) / "moetap" / "summary.json");
    const plugin::RunRanks ranks = plugin::find_run_ranks(folder);
    for (const int64_t rank : ranks.done) state += state_of_file(plugin::RunPaths(folder, rank).done);
    for (const int64_t rank : ranks.unfinished) {
      const std::string journal = plugin::RunPaths(folder, rank).journal.string();
      state += state_of_file(plugin::RunJournal::frames_path_in(journal));
      state += plugin::living_owner(journal).value_or("");
    }
  }
  return state;
}

/// What the page says of a run that has not ended: {forwards, recording, ranks: [{rank, done, owner, forwards}]}.
ordered_json unfinished_json(const PageRun& run) {
  ordered_json ranks = ordered_json::array();
  int64_t forwards = 0;
  bool recording = false;
  for (const plugin::SnapshotRank& rank : run.unfinished()) {
    ranks.push_back({{"rank", rank.rank}, {"done", rank.is_done}, {"owner", rank.owner}, {"forwards", rank.forwards}});
    forwards += rank.forwards;
    recording = recording || !rank.owner.empty();
  }
  return {{"forwards", forwards}, {"recording", recording}, {"ranks", std::move(ranks)}};
}

/// The studies that tell nothing of single samples, but for one.
std::vector<std::string> studies_without_samples(const std::string& without) {
  std::vector<std::string> names;
  for (const analysis::studies::StudyEntry& entry : analysis::studies::all_studies()) {
    const std::string name = entry.name;
    const bool of_a_sample = name.starts_with("sankey_") && name != "sankey_evolution";
    if (!of_a_sample && !entry.by_name_only && name != without) names.push_back(name);
  }
  return names;
}

/// Reads a page, its parts in the order in which they get their shares of its size.
class PageBuilder {
 public:
  PageBuilder(const PageInputs& inputs, const std::string& scratch_folder, const std::function<void()>& check,
              KnownStudies* known)
      : inputs_(inputs),
        scratch_folder_(scratch_folder),
        check_(check),
        known_(known),
        paths_(sort_paths(inputs)),
        budget_(kPageBytes) {}

  PageData build() {
    data_.title = title_of(inputs_);
    data_.json = {{"schema_version", kSchemaVersion}, {"moetap_version", MOETAP_VERSION}, {"title", data_.title}};
    data_.json["runs"] = ordered_json::array();
    budget_.use(static_cast<int64_t>(report_page(data_.title, data_.json).size()));
    add_runs();
    add_training(inputs_, data_);
    for (const char* part : {"training", "affinity"}) {
      if (data_.json.contains(part)) budget_.use(json_bytes(data_.json[part]));
    }
    add_probe();
    ordered_json analysis = read_studies();
    const int64_t of_studies = analysis.is_null() ? 0 : kStudiesShare;
    add_tokens(of_studies);
    add_pairs(of_studies);
    if (!analysis.is_null()) {
      cut_analysis(analysis, budget_.share(1, 0));
      data_.json["analysis"] = std::move(analysis);
    }
    data_.json["left_out"] = data_.notices;
    return std::move(data_);
  }

 private:
  void add_runs() {
    for (const std::string& path : paths_.runs) {
      check_();
      runs_.push_back(std::make_unique<PageRun>(path, scratch_folder_, inputs_.unfinished));
      const PageRun& run = *runs_.back();
      ordered_json json = run_data(run.metrics(), folder_name(path));
      if (!run.unfinished().empty()) json["unfinished"] = unfinished_json(run);
      for (const std::string& line : run.missing()) json["warnings"][line] = true;
      if (runs_.size() > 1) drop_experts(json["attention"]);  // figures show those of the first run
      const int64_t attention = json_bytes(json["attention"]);
      budget_.use(json_bytes(json) - bytes_of_pairs(json) - attention);
      const std::string cut = cut_experts(json["attention"], budget_.share(kExpertsShare, kOthersShare));
      if (!cut.empty()) data_.notices.push_back(cut);
      budget_.use(json_bytes(json["attention"]));
      data_.json["runs"].push_back(std::move(json));
    }
  }

  void add_probe() {
    if (runs_.empty()) return;
    std::string note;
    ordered_json probe = probe_data(runs_.front()->metrics(), inputs_.surfaces, note);
    if (probe.is_null()) return;
    budget_.use(json_bytes(probe));
    data_.json["probe"] = std::move(probe);
    data_.json["probe_note"] = note;
    if (!inputs_.surfaces.colors.empty()) data_.json["colorscale"] = inputs_.surfaces.colors;
  }

  /// Those of the given analyses; without any, the page makes them itself. Null: there are none.
  ordered_json read_studies() {
    ordered_json analysis;
    for (const std::string& folder : paths_.analyses) {
      check_();
      merge_analysis(analysis, read_analysis(folder), folder, data_.notices);
    }
    if (!paths_.analyses.empty() || !inputs_.makes_studies) return analysis;
    PageStudies studies{{}, paths_.arrays.empty(), inputs_.studies, "", inputs_.num_threads};
    // A run with other regions than the study's keeps their flow in its summary, which the page shows.
    const int64_t regions = num_regions();
    if (regions > 0 && regions != inputs_.studies.study.regions) studies.without = "information_flow";
    if (inputs_.tokens.max_samples == 0 && studies.are_runs && studies.options.only.empty()) {
      studies.options.only = studies_without_samples(studies.without);
    }
    if (!paths_.arrays.empty()) studies.inputs = paths_.arrays;
    for (const auto& run : runs_) {
      if (run->dump() == nullptr) return analysis;  // a run that goes on has a dump that grows
      studies.inputs.push_back(run->folder());
    }
    if (studies.inputs.empty() && inputs_.studies.positive.empty() && inputs_.studies.negative.empty() &&
        inputs_.studies.models.empty()) {
      return analysis;
    }
    const std::string state = state_of_runs(inputs_.paths);
    if (known_ == nullptr || !known_->are_made || known_->of != state) {
      KnownStudies made{true, state, nullptr, {}};
      made.analysis = make_page_studies(studies, scratch_folder_, check_, made.notices);
      data_.notices.insert(data_.notices.end(), made.notices.begin(), made.notices.end());
      if (known_ == nullptr) return std::move(made.analysis);
      *known_ = std::move(made);
    } else {
      data_.notices.insert(data_.notices.end(), known_->notices.begin(), known_->notices.end());
    }
    return known_->analysis;
  }

  /// Of the first run's attention; 0: it has none.
  int64_t num_regions() const {
    if (runs_.empty()) return 0;
    for (const auto& layers : data_.json["runs"][0]["attention"]) {
      for (const auto& layer : layers) {
        if (layer.contains("regions")) return static_cast<int64_t>(layer["regions"].size());
      }
    }
    return 0;
  }

  void add_tokens(int64_t of_studies) {
    if (runs_.empty() || runs_.front()->dump() == nullptr) return;
    TokenOptions options = inputs_.tokens;
    options.max_image_bytes = budget_.share(kImagesShare, kTokensShare + kPairsShare + of_studies);
    options.max_bytes = budget_.share(kTokensShare, kImagesShare + kPairsShare + of_studies);
    TokenData tokens = token_data(*runs_.front()->dump(), options, data_.json["runs"][0]["attention"], scratch_folder_,
                                  check_, data_.notices);
    data_.has_tokens = !tokens.tokens.is_null();
    if (data_.has_tokens) {
      budget_.use(json_bytes(tokens.tokens));
      data_.json["tokens"] = std::move(tokens.tokens);
    }
    if (tokens.categories.empty()) return;
    budget_.use(json_bytes(tokens.categories));
    data_.json["categories"] = std::move(tokens.categories);
  }

  void add_pairs(int64_t of_studies) {
    for (ordered_json& run : data_.json["runs"]) {
      check_();
      cut_pairs(run, budget_.share(kPairsShare, of_studies) / static_cast<int64_t>(runs_.size()));
    }
    for (const ordered_json& run : data_.json["runs"]) budget_.use(bytes_of_pairs(run));
  }

  const PageInputs& inputs_;
  const std::string& scratch_folder_;
  const std::function<void()>& check_;
  KnownStudies* known_;
  SortedPaths paths_;
  PageBudget budget_;
  std::vector<std::unique_ptr<PageRun>> runs_;
  PageData data_;
};

}  // namespace

PageData page_data(const PageInputs& inputs, const std::string& scratch_folder, const std::function<void()>& check,
                   KnownStudies* known) {
  return PageBuilder(inputs, scratch_folder, check, known).build();
}

std::string state_of(const PageInputs& inputs) {
  std::string state = state_of_runs(inputs.paths);
  for (const std::string& file : {inputs.training_log, inputs.affinity}) state += state_of_file(file);
  for (const std::string& path : inputs.paths) {
    for (const char* name : {"analysis.json", kTrainingLog, kAffinity}) state += state_of_file(fs::path(path) / name);
  }
  return state;
}

}  // namespace moetap::cli
