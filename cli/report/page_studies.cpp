#include "cli/report/page_studies.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string_view>

#include "cli/report/analysis_data.h"
#include "cli/studies/result_files.h"
#include "cli/studies/study_run.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;
namespace studies = analysis::studies;

bool compares(const studies::StudyEntry& entry) {
  return (entry.needs & studies::kNeedsTwoRuns) != 0;
}

/// Those of --only, or of all that need no name, that compare inputs or do not.
std::vector<std::string> names_of(const AnalyzeOptions& options, bool that_compare) {
  std::vector<std::string> names;
  for (const studies::StudyEntry& entry : studies::all_studies()) {
    const bool named = std::find(options.only.begin(), options.only.end(), entry.name) != options.only.end();
    if (compares(entry) == that_compare && (options.only.empty() ? !entry.by_name_only : named))
      names.emplace_back(entry.name);
  }
  return names;
}

/// Names that are no study are refused by the studies of all inputs.
void check_names(const AnalyzeOptions& options) {
  for (const std::string& name : options.only) {
    const auto all = studies::all_studies();
    if (std::any_of(all.begin(), all.end(), [&](const auto& entry) { return name == entry.name; })) continue;
    throw CommandError(fmt::format("--only: \"{}\" is no study; moetap analyze --list names them", name), kExitUsage);
  }
}

ordered_json analysis_of(const std::vector<std::string>& inputs, AnalyzeOptions options, const PageStudies& all,
                         const std::string& scratch_folder, const std::function<void()>& check) {
  if (inputs.size() == 1 && options.models.size() > 1) options.models.resize(1);
  OpenStudies open({inputs, options, scratch_folder, check, {}, all.num_threads});
  return open.has_studies() ? analysis_json(open.observe().finalize()) : ordered_json();
}

}  // namespace

ordered_json make_page_studies(const PageStudies& all, const std::string& scratch_folder,
                               const std::function<void()>& check, std::vector<std::string>& notices) {
  check_names(all.options);
  ordered_json data;
  const auto add = [&](const std::vector<std::string>& inputs, bool that_compare) {
    AnalyzeOptions options = all.options;
    options.only = names_of(all.options, that_compare);
    if (all.options.only.empty()) std::erase(options.only, all.without);
    while (!options.only.empty()) {
      try {
        const ordered_json made = analysis_of(inputs, options, all, scratch_folder, check);
        if (!made.is_null()) merge_analysis(data, made, "", notices);
        return;
      } catch (const std::exception& error) {
        check();
        const auto* of_command = dynamic_cast<const CommandError*>(&error);
        if (!all.are_runs || (of_command != nullptr && of_command->exit_status() != kExitFailed)) throw;
        notices.push_back(fmt::format("not in this page: {}", error.what()));
        // A study that says that it fails keeps no other out.
        if (std::erase_if(options.only, [&](const std::string& name) {
              return std::string_view(error.what()).starts_with(name + ":");
            }) == 0) {
          notices.back() = fmt::format("studies are not in this page: {}", error.what());
          return;
        }
      }
    }
  };
  const std::vector<std::string> first(all.inputs.begin(), all.inputs.begin() + (all.inputs.empty() ? 0 : 1));
  add(first, false);
  if (all.inputs.size() > 1) add(all.inputs, true);
  return data;
}

}  // namespace moetap::cli
