#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/studies/analyze_options.h"
#include "cli/studies/pair_passes.h"
#include "cli/studies/partial_file.h"
#include "cli/studies/result_files.h"
#include "cli/studies/study_passes.h"

namespace moetap::cli {

/// What one analysis asks for: all that a partial must agree in. JSON, so that a merge can make the same studies.
struct AnalysisPlan {
  nlohmann::ordered_json inputs = nlohmann::ordered_json::array();
  AnalyzeOptions options;
  bool is_arrays = false;
  struct OfComponent {
    studies::ComponentShape shape;
    std::vector<std::string> studies;
  };
  struct OfPair {
    studies::PairShape shape;
    std::vector<std::string> studies;
  };
  std::vector<OfComponent> components;  // "log" and "sequences" among them, without layers
  std::vector<OfPair> pairs;            // a component each
  std::vector<StudyLeftOut> left_out;
  std::vector<std::string> notices;

  bool is_empty() const { return components.empty() && pairs.empty(); }
  nlohmann::ordered_json to_json() const;
  static AnalysisPlan from_json(const nlohmann::ordered_json& json);
};

/// The studies of a plan with their sums: what a process has observed, or what several have, merged.
class StudySums {
 public:
  /// With empty sums. Throws CommandError if a study of the plan is none of this moetap.
  explicit StudySums(AnalysisPlan plan);

  const AnalysisPlan& plan() const { return plan_; }
  std::vector<RunningStudy>& of_component(size_t component) { return components_[component]; }
  std::vector<RunningPair>& of_pair(size_t pair) { return pairs_[pair]; }

  Partial to_partial(int64_t shard, int64_t num_shards) const;
  /// Adds a partial of the same plan. Throws std::runtime_error if its bytes do not fit the studies.
  void merge(const Partial& partial);
  /// Throws CommandError, a line, where the check of the input found what makes numbers wrong.
  void check_input() const;
  /// The same, then the results.
  Analysis finalize() const;

 private:
  AnalysisPlan plan_;
  std::vector<std::vector<RunningStudy>> components_;
  std::vector<std::vector<RunningPair>> pairs_;
};

/// The entry of a study by name, the check of the input among them. Null: there is none.
const studies::StudyEntry* find_study(const std::string& name, bool is_arrays);

/// Why a study cannot be made: what would give it the bits that `has` lacks; "" if it can.
std::string missing_input(const studies::StudyEntry& entry, uint32_t has);

}  // namespace moetap::cli
