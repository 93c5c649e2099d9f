#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `predictability`: do this layer's experts tell the next layer's (for prefetching)? Counted on samples of even
/// number, scored on those of odd number, over tokens that both layers have seen. K = top_k of the next layer; named
/// are the K most used experts (popular), the K largest sums over the token's experts e of P(x | e), the share of the
/// tokens with e that used x next (ids), and the K most frequent for the token id (token). Recall: mean share of the
/// experts that the token used next that were named. Ties to the lower id; what was never counted is 0. Samples of
/// number −1 are left out. Order::kSamples, two passes. Table `predictability`. State: 8 E² bytes a pair of layers, and
/// 4 E bytes a layer and token id seen.
std::unique_ptr<Study> make_predictability(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
