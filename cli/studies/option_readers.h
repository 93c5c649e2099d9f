#pragma once

#include <string>
#include <vector>

#include "cli/studies/study_sums.h"

namespace moetap::cli {

// Note [Options that nothing reads]
// Each option of a study, or of an input, is read by some of the studies or inputs only. One that the user gave, and
// that none of this analysis reads, is named in a notice: an option without effect must not look like one with it.

/// A line for each of `given` ("--warm") that nothing in the plan reads: which studies or inputs would.
/// Throws std::logic_error for an option that the rule does not know.
std::vector<std::string> unread_options(const std::vector<std::string>& given, const AnalysisPlan& plan);

}  // namespace moetap::cli
