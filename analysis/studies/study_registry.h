#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// A study as `moetap analyze --list` shows it. One of `make` and `make_pair` is set.
struct StudyEntry {
  const char* name;
  const char* question;  // that it answers, e.g. "Is routing balanced?"
  Order order = Order::kTokens;
  uint32_t needs = 0;     // bits of Needs; without all of them it does not run
  uint32_t wants = 0;     // bits of Needs: read if the input has them
  uint32_t instead = 0;   // bits of Needs: with all of them it runs without `needs`; 0: it does not
  const char* fill = "";  // what would give it its input, e.g. "a run with --dump full"
  std::unique_ptr<Study> (*make)(const ComponentShape&, const StudyOptions&) = nullptr;
  std::unique_ptr<PairStudy> (*make_pair)(const PairShape&, const StudyOptions&) = nullptr;
  bool by_name_only = false;  // runs only where --only names it
};

/// All studies, in the order of the specs. Each folder of studies adds a list of its own.
std::vector<StudyEntry> all_studies();
std::vector<StudyEntry> routing_studies();   // routing_registry.cpp
std::vector<StudyEntry> notebook_studies();  // notebook_registry.cpp

}  // namespace moetap::analysis::studies
