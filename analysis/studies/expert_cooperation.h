#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// Which experts a token goes to together, weighted by the geometric mean of their gates. Valid tokens in both
/// definitions. 24 bytes a pair of experts and layer. Negative gates have no root: they are counted as out of range.
std::unique_ptr<Study> make_expert_cooperation(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
