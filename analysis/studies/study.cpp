#include "analysis/studies/study.h"

#include <stdexcept>

namespace moetap::analysis::studies {

std::unique_ptr<Study> Study::fork() const {
  throw std::logic_error("a study with several passes must say how it forks");
}

}  // namespace moetap::analysis::studies
