#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// The flow between the most important experts of layers that follow each other: experts are the top N (6) of each
/// layer, value is T[x, y] / sum of T, probability T[x, y] / sum of row x.
///
/// The notebook writes three versions to one file; the last one is its definition here: value is 100 * T where T is
/// above 0.01, and a position counts if its token is not `StudyOptions::notebook_padding`.
std::unique_ptr<Study> make_sankey_evolution(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
