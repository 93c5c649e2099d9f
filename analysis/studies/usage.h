#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `usage`: how often is each expert used? Of the tokens of options.phase, and of these the slice options.token_range
/// (in the order of the component's tokens). A negative end of the slice needs a pass before, to count the tokens; a
/// slice of one phase makes the study sequential, since places among its tokens are counted. Order::kTokens.
///   `usage`: selected_count = c, usage = c / T, load_ratio = c / mean(c).
///   `load_balance`: what load_metrics.h says of c.
///   `usage_comparison`: prompt (a) against generation (b), where there are tokens of both and no phase is chosen.
std::unique_ptr<Study> make_usage(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
