#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/report/page_run.h"
#include "cli/report/page_studies.h"
#include "cli/report/probe_data.h"
#include "cli/report/token_data.h"
#include "cli/report/training_log.h"

namespace moetap::cli {

/// What a page is made of.
struct PageInputs {
  std::vector<std::string> paths;  // runs (at most two), arrays and other inputs of studies, analyses; as the user gave
  std::string title;               // "": made of the names of the paths
  std::string training_log;        // "": none
  std::string affinity;            // "": none
  TokenOptions tokens;
  SurfaceOptions surfaces;
  bool makes_studies = true;  // unless an analysis is given
  AnalyzeOptions studies;
  int num_threads = 0;  // of studies; 0: one a core
  UnfinishedRun unfinished = UnfinishedRun::kRefuse;
};

struct PageData {
  nlohmann::ordered_json json;  // docs/report.md says what it holds
  std::string title;
  bool has_tokens = false;  // what each token did, which gives back most of a text
  std::vector<Diagnostic> diagnostics;
  std::vector<std::string> notices;
};

/// Studies that were made for a page, to be used again while their inputs stay.
struct KnownStudies {
  bool are_made = false;
  std::string of;  // the state of their inputs
  nlohmann::ordered_json analysis;
  std::vector<std::string> notices;
};

/// Reads everything that a page shows. `scratch_folder` takes files while a dump is read. With `known` the studies are
/// made once for a state of their inputs. Throws CommandError or std::runtime_error with one line.
PageData page_data(const PageInputs& inputs, const std::string& scratch_folder, const std::function<void()>& check,
                   KnownStudies* known = nullptr);

/// Sizes and times of all files that a page is made of: a change of it means that something grew.
std::string state_of(const PageInputs& inputs);

}  // namespace moetap::cli
