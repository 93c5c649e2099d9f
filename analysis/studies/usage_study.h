#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "analysis/studies/study.h"
#include "analysis/studies/study_options.h"
#include "analysis/studies/usage_scratch.h"

namespace moetap::analysis::studies {

/// Shares of each layer. usage: of the selected slots; importance: of the sum of gates. Each layer sums to 1, or is 0.
struct UsageShares {
  int64_t num_layers = 0;
  std::vector<std::string> names;               // [L] as sentences have them
  std::vector<int64_t> num_experts;             // [L]
  std::vector<std::vector<int64_t>> counts;     // [L][E]
  std::vector<std::vector<double>> usage;       // [L][E]
  std::vector<std::vector<double>> importance;  // [L][E]

  int64_t most_experts() const;
};

/// What the studies of usage share: they differ in what they finalize. Valid tokens; the notebook's definition counts
/// padding too. 16 bytes an expert and layer for the gates, 8 for the counts.
class UsageStudy : public Study {
 public:
  UsageStudy(const ComponentShape& shape, const StudyOptions& options);

  void observe(const TokenBatch& batch) override;
  void merge(const Study& other) override;
  void save(ByteSink& sink) const override { sums_.save(sink); }
  void load(ByteSource& source) override { sums_.load(source); }

 protected:
  UsageShares shares() const;
  bool is_notebook() const { return is_notebook_; }
  /// "gates out of range were left out" and the like: what every table of these sums must say.
  void add_notices(Result& result) const;

 private:
  std::vector<std::string> names_;    // [L]
  std::vector<int64_t> num_experts_;  // [L]
  bool is_notebook_ = false;
  UsageSums sums_;
};

/// Stability of each expert over the layers that have it: 1 / (1 + cv) of its importance, kUndefined where its mean is
/// 0. The notebook's: 1 / (sd + 1e-10), divided by the largest. sd: of the population.
std::vector<double> expert_stability(const UsageShares& shares, bool notebook);

std::unique_ptr<Study> make_layer_statistics(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_expert_usage(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_layer_changes(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_top_experts(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_expert_stability(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_expert_evolution_stats(const ComponentShape& shape, const StudyOptions& options);
std::unique_ptr<Study> make_evolution_report(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
