#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `token_expert_enrichment`: which token ids an expert sees more often than chance. Of a layer's N tokens, n have the
/// token id, M used the expert, `count` both: lift = (count / n) / (M / N), p = P(X >= count) of the hypergeometric
/// distribution, adjusted over the layer's pairs with a count of 5 or more (hypergeometric.h). The 50 of smallest
/// adjusted p an expert are written: ties to the larger lift, then the lower token id. Tokens of unknown id count in N
/// and M. Order::kTokens. Table `token_expert_enrichment`. State: E + 1 bytes a layer and token id seen, 5 (E + 1) for
/// frequent ones.
std::unique_ptr<Study> make_token_expert_enrichment(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
