#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/studies/analysis_job.h"

namespace moetap::cli {

/// An analysis in this process: what it reads, and how.
struct StudyRun {
  const std::vector<std::string>& inputs;  // paths, as `moetap analyze` takes them
  const AnalyzeOptions& options;
  std::string scratch_folder;
  std::function<void()> check;  // called now and then; may throw
  Shard shard = {};
  int num_threads = 0;  // 0: one a core
};

/// Studies that are chosen and whose inputs are open.
class OpenStudies {
 public:
  /// Throws as StudyInputs and `plan_analysis`.
  explicit OpenStudies(const StudyRun& run);

  /// False: the inputs allow no study.
  bool has_studies() const { return !plan_.is_empty(); }
  const AnalysisPlan& plan() const { return plan_; }

  /// Lines that the result has beside those of the plan.
  void add_notices(const std::vector<std::string>& lines);

  /// Reads everything, with a bar on stderr where that is a terminal. Once.
  StudySums observe();

 private:
  StudyRun run_;
  StudyInputs inputs_;
  AnalysisPlan plan_;
};

}  // namespace moetap::cli
