#include "analysis/studies/study_registry.h"

namespace moetap::analysis::studies {

std::vector<StudyEntry> all_studies() {
  std::vector<StudyEntry> all = notebook_studies();
  for (const StudyEntry& entry : routing_studies()) all.push_back(entry);
  return all;
}

}  // namespace moetap::analysis::studies
