#pragma once

#include <cstddef>
#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `groups`: do groups of samples (--group-by) use different experts? Order::kSamples. Tokens of no known sample or
/// group are left out. State: see GroupSamples.
///   `group_usage`: usage = uses of the expert / tokens of the group, with its 95 % bootstrap interval: options.draws
///     times as many samples of the group as it has are drawn with replacement; bounds are the 2.5 and 97.5 percentiles
///     (linear). A sample that has tokens in two groups is a sample of each.
///   `group_difference`: Jensen-Shannon divergence in bits of the groups' shares of uses; p_value = (1 + permutations
///   of
///     the samples' labels with at least this divergence) / (1 + options.draws).
/// Numbers are drawn as Note [Seeded random numbers] says; the streams are "usage", "difference" and the names of
/// groups.
std::unique_ptr<Study> make_groups(const ComponentShape& shape, const StudyOptions& options);

/// Jensen-Shannon divergence in bits of two sets of counts, each divided by its sum; kUndefined if a sum is 0.
double js_divergence(const double* a, const double* b, size_t size);

}  // namespace moetap::analysis::studies
