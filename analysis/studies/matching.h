#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `matching`: which expert of A is which of B? The optimal assignment of experts of a layer (assignment.h), cost
/// 1 − similarity. Similarity is the cosine of router rows where `--model A B` gives both routers, else of usage
/// profiles: for each token that both runs have, 1 where it used the expert. What has no profile has similarity 0 in
/// the assignment and empty cells. With more experts in A than in B some have no partner. Order::kSamples. Table
/// `matching`. State: 8 E² bytes a layer; router rows, 4 bytes a value.
std::unique_ptr<PairStudy> make_matching(const PairShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
