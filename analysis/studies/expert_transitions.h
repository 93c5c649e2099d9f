#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// Which experts of the next layer the tokens of an expert go to, weighted by both gates. Valid tokens; the notebook's
/// definition counts padding too. Its rows without any weight are uninitialised memory: here they are left out.
std::unique_ptr<Study> make_expert_transitions(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
