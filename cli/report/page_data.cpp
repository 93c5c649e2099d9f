#include "cli/report/page_data.h"

#include <fmt/format.h>

#include <filesystem>

#include "cli/report/affinity_matrix.h"
#include "cli/report/analysis_data.h"
#include "cli/report/probe_data.h"
#include "cli/report/run_data.h"
#include "cli/report/size_budget.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/json_text.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;
constexpr int64_t kPairBytes = 300'000, kAnalysisBytes = 500'000;
constexpr const char* kTrainingLog = "training_log.txt";
constexpr const char* kAffinity = "router_affinity_matrix.csv";

struct Folders {
  std::vector<plugin::RunReader> runs;
  std::vector<std::string> analyses;
};

bool has_file(const std::string& folder, const char* name) {
  std::error_code error;
  return fs::is_regular_file(fs::path(folder) / name, error);
}

bool is_run(const std::string& folder) {
  std::error_code error;
  return fs::is_directory(fs::path(folder) / "moetap", error);
}

/// Tells what each folder is. A folder may be several things at once.
Folders sort_folders(const PageInputs& inputs) {
  Folders folders;
  for (const std::string& folder : inputs.folders) {
    const bool analysis = is_analysis(folder), run = is_run(folder);
    const bool training = has_file(folder, kTrainingLog) || has_file(folder, kAffinity);
    if (analysis) folders.analyses.push_back(folder);
    if (run) folders.runs.emplace_back(folder);
    if (analysis || run || training) continue;
    std::error_code error;
    const char* what = fs::is_directory(folder, error)
                           ? "holds no run (moetap/), no analysis (analysis.json) and no training log"
                           : "there is no such folder";
    throw CommandError(fmt::format("{}: {}", folder, what));
  }
  if (folders.runs.size() > 2)
    throw CommandError(fmt::format("takes one run, or two to compare, got {}", folders.runs.size()), kExitUsage);
  return folders;
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
  for (size_t i = 0; i < inputs.folders.size(); ++i)
    names += (i == 0 ? "" : i + 1 == inputs.folders.size() ? " and " : ", ") + folder_name(inputs.folders[i]);
  return names.empty() ? "Training of a router" : "Routing in " + names;
}

void add_training(const PageInputs& inputs, PageData& data) {
  const std::string log = file_in(inputs.training_log, inputs.folders, kTrainingLog);
  const std::string affinity = file_in(inputs.affinity, inputs.folders, kAffinity);
  if (!log.empty()) data.json["training"] = read_training_log(log, data.diagnostics);
  if (!affinity.empty()) data.json["affinity"] = read_affinity_matrix(affinity, data.diagnostics);
  if (!log.empty() || !affinity.empty()) data.json["training"]["diagnostics"] = diagnostics_json(data.diagnostics);
}

}  // namespace

PageData page_data(const PageInputs& inputs, const std::string& scratch_folder, const std::function<void()>& check) {
  const Folders folders = sort_folders(inputs);
  PageData data;
  data.title = title_of(inputs);
  data.json = {{"schema_version", kSchemaVersion}, {"moetap_version", MOETAP_VERSION}, {"title", data.title}};
  data.json["runs"] = ordered_json::array();
  for (const plugin::RunReader& run : folders.runs) {
    check();
    data.json["runs"].push_back(run_data(run, kPairBytes / static_cast<int64_t>(folders.runs.size())));
  }
  for (const std::string& folder : folders.analyses) {
    check();
    merge_analysis(data.json["analysis"],
                   analysis_data(folder, kAnalysisBytes / static_cast<int64_t>(folders.analyses.size())), folder,
                   data.notices);
  }
  if (!folders.runs.empty()) {
    const plugin::RunReader& run = folders.runs.front();
    std::string note;
    ordered_json probe = probe_data(run, note);
    if (!probe.is_null()) {
      data.json["probe"] = std::move(probe);
      data.json["probe_note"] = note;
    }
    TokenData tokens =
        token_data(run, inputs.tokens, data.json["runs"][0]["attention"], scratch_folder, check, data.notices);
    data.has_tokens = !tokens.tokens.is_null();
    if (data.has_tokens) data.json["tokens"] = std::move(tokens.tokens);
    if (!tokens.categories.empty()) data.json["categories"] = std::move(tokens.categories);
  }
  add_training(inputs, data);
  data.json["left_out"] = data.notices;
  return data;
}

}  // namespace moetap::cli
