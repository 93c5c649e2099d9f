#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `imbalance`: how unevenly a layer's experts are loaded in the run, and in single forwards, which a run's mean hides.
/// Imbalance = max / mean over experts of the times that they are used (Note [Used experts]). Percentiles are over
/// forwards of at least E tokens of the layer and interpolate linearly; forwards without any used expert have none.
/// Order::kForwards. Table `imbalance`. State: 8 bytes a layer and counted forward.
std::unique_ptr<Study> make_imbalance(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
