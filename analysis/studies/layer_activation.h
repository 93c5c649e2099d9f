#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `layer_activation`: mean router probabilities, and which layers are alike in them. Probabilities are the scores as
/// the router made them. Order::kTokens.
///   `layer_activation`: avg_activation, var_activation (ddof = 1) of the expert's score over the layer's tokens, and
///   how
///     often it was used, selected_count.
///   `layer_correlation`: Pearson's correlation of the profiles avg_activation of two layers at most options.delta_max
///     MoE layers apart; empty for a constant profile, and where the numbers of experts differ.
///   `layer_periodicity`: mean and standard deviation (ddof = 0) of the correlations at each distance of
///     options.periods; strength: strong above 0.7, moderate above 0.4, else weak.
std::unique_ptr<Study> make_layer_activation(const ComponentShape& shape, const StudyOptions& options);

/// The correlations of all pairs of layers `delta` apart, in order, from profiles [layers][E].
std::vector<double> layer_correlations(const std::vector<std::vector<double>>& profiles, size_t delta);

}  // namespace moetap::analysis::studies
