#pragma once

#include <string>
#include <vector>

#include "cli/studies/study_inputs.h"
#include "cli/studies/study_sums.h"

namespace moetap::cli {

/// Chooses the studies that the inputs allow, opens what they need, and says what is left out and why; a plan may have
/// no study at all. Throws CommandError: a study of --only that there is not.
AnalysisPlan plan_analysis(StudyInputs& inputs, const AnalyzeOptions& options);

/// Throws CommandError, what is missing, where a plan has no study.
void require_studies(const AnalysisPlan& plan);

/// Observes all inputs, or a shard of them. `sums` are empty and of the plan.
void observe_inputs(StudyInputs& inputs, StudySums& sums, const PassOptions& options);

}  // namespace moetap::cli
