#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `expert_cache`: what share of accesses a cache of C experts of a layer would hit, for all C; for offloading. A
/// generated token accesses the experts that it used, by rank of weight; the prompt tokens of one forward access each
/// expert that one of them used, once, in order of first use. Accesses that options.cache_phase does not name fill the
/// caches and are not counted. Caches are empty at the start of a sample; with options.warm they are kept, and the
/// study is sequential. LRU and MIN: Note [Caches of all sizes at once]; MIN knows the future of the sample. Static:
/// the C experts that the run uses most, ties to the lower id. Tokens of sample −1 are left out, but counted for
/// static. Order::kSamples. Table `expert_cache`.
std::unique_ptr<Study> make_expert_cache(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
