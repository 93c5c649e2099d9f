#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// The studies of LibMoE's toolkit over its logs, for any number of layers and experts. Means are over entries, each
/// alike; keys that an entry lacks are left out. `run` is the place of the log among the inputs.
///   `router_metrics`: entropy_topk = mean of entropy_weight_topk, margin = mean of the means of router_magine.
///   `category_entropy`: by doc.category ("unknown" without one): dist_entropy = mean of the entropy of
///   dist_experts_top1
///     over ln E (empty for one expert), entropy_topk.
///   `diversity`: mean of diver_loss, where the log has it.
std::unique_ptr<Study> make_logged_metrics(const ComponentShape& shape, const StudyOptions& options);

/// −Σ q ln(q + 1e-9) / ln E, q = counts / Σ counts, as libmoe.md has it; kUndefined for one expert or no count.
double normalised_entropy(const std::vector<int64_t>& counts);

}  // namespace moetap::analysis::studies
