#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/studies/analyze_options.h"

namespace moetap::cli {

/// Which studies a page makes itself, of what.
struct PageStudies {
  std::vector<std::string> inputs;  // runs or arrays, one or two to compare; logs of checkpoints
  bool are_runs = false;
  AnalyzeOptions options;
  std::string without;  // a study that is made only where --only names it; "": none
  int num_threads = 0;  // 0: one a core
};

/// The studies as analysis.json holds them: all that the first input allows, and those that compare the inputs. Null:
/// none can be made. Where a run's studies fail, `notices` gets why and the page does without; throws CommandError for
/// options that are none, for arrays, and what `check` throws.
nlohmann::ordered_json make_page_studies(const PageStudies& studies, const std::string& scratch_folder,
                                         const std::function<void()>& check, std::vector<std::string>& notices);

}  // namespace moetap::cli
