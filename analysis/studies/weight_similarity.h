#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `weight_similarity`: which layers of a model have similar routers and experts? From the weights of the first model
/// that is given (`--model`). A router is [E, hidden]; weights of an expert are told apart by their names after the
/// last number.
///   `router_similarity`: for each pair of layers: cosine of the whole matrices; column_norm_correlation, Pearson's, of
///     the norms of their columns (one for each place of the hidden state). Empty where the shapes differ.
///   `expert_weight_similarity`: for layers at most options.delta_max MoE layers apart: cosine of all weights of an
///     expert in one layer and of the expert of the same number in the other, mean over the experts that both have with
///     the same names and sizes.
/// State: a copy of the weights.
std::unique_ptr<Study> make_weight_similarity(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
