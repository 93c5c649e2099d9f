#pragma once

#include <memory>
#include <string>
#include <vector>

#include "analysis/studies/study_registry.h"
#include "cli/studies/study_passes.h"
#include "cli/studies/token_source.h"

namespace moetap::cli {

// Note [The same token in two runs]
// Tokens are the same where sample and position agree, and the rank too if a sample's number comes in several ranks of
// a run: two runs may lay the same samples on other ranks. Where both token ids are known they must agree; where a
// position comes several times in a sample (a generation gives 0 at each step): the n-th of one run and the n-th of the
// other. Tokens that one run alone has are in the batch as tokens that no layer of the other has seen. Tokens of no
// known sample have no partner: each is a token that one run alone has.

/// A study of two runs that is being made.
struct RunningPair {
  const studies::StudyEntry* entry = nullptr;
  std::function<std::unique_ptr<studies::PairStudy>()> make;
  std::unique_ptr<studies::PairStudy> study;
  bool is_filled = false;  // by a partial
};

/// The layers that both have, by id, in the order of `a`. `notices`: gets a line where one has more.
studies::PairShape pair_of_shapes(const studies::ComponentShape& a, const studies::ComponentShape& b,
                                  const std::string& name_a, const std::string& name_b,
                                  std::vector<std::string>& notices);
/// The same of two sources, with a line for samples that are joined by rank.
studies::PairShape pair_shape(const TokenSource& a, const TokenSource& b, const std::string& name_a,
                              const std::string& name_b, std::vector<std::string>& notices);

/// One pass over both, in the order by samples. Errors as `make_studies`.
void make_pair_studies(const TokenSource& a, const TokenSource& b, const studies::PairShape& shape,
                       std::vector<RunningPair>& running, const PassOptions& options);

}  // namespace moetap::cli
