#pragma once

#include <CLI/App.hpp>
#include <string>

#include "cli/studies/analyze_options.h"

namespace moetap::cli {

/// The options of studies on a command line, of `moetap analyze` and `moetap report` alike.
struct StudyArguments {
  AnalyzeOptions options;
  std::string only, phase, cache_phase;
  int num_threads = 0;  // 0: one a core

  /// `options` with what the texts say.
  AnalyzeOptions parsed() const;
};

/// Adds the options; `group` is their heading in the help, "" for that of all others.
void add_study_arguments(CLI::App* app, StudyArguments& arguments, const std::string& group = "");

}  // namespace moetap::cli
