#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

inline constexpr std::string_view kResidues = "ACDEFGHIKLMNPQRSTVWY";  // the 20 standard ones, in the tables' order
inline constexpr int64_t kNumResidues = 20;

/// Place in kResidues, −1: not standard.
int64_t residue_place(char letter);

/// A sequence's letters as the recommended definition takes them: in upper case, without '*' and '-'.
std::string plain_letters(std::string_view letters);

std::unique_ptr<Study> make_aa_composition(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_aa_correlation(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
