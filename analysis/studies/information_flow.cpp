#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/attention_study.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

/// From which region of the sequence to which each expert's tokens attend. A layer's table has a row for each expert
/// and region of the query: sums of g * mass into each region.
class InformationFlow : public AttentionStudy {
 public:
  using AttentionStudy::AttentionStudy;

  Result finalize() const override;

 protected:
  int64_t table_rows(int64_t num_experts) const override { return num_experts * options().regions; }
  int64_t table_width() const override { return options().regions; }

  void add(const AttentionRows& rows, const RowValues& values, ExactTable& sums) override {
    const auto regions = static_cast<size_t>(options().regions);
    std::vector<double> shares(regions);
    for (int64_t row = 0; row < rows.num_queries; ++row) {
      const auto at = static_cast<size_t>(row);
      const double* const into = values.into.data() + at * regions;
      double total = values.sum[at];
      if (is_notebook()) {
        total = 1e-10;
        for (size_t r = 0; r < regions; ++r) total += into[r];
      }
      if (!(total > 0)) continue;
      for (size_t r = 0; r < regions; ++r) shares[r] = into[r] / total;
      add_token(rows.tokens, row, values.from[at], shares, sums);
    }
  }

  void add(const AttentionStats& stats, ExactTable& sums) override {
    const auto regions = static_cast<size_t>(options().regions);
    const int64_t first = stats_column(stats, "region.0");
    const bool has_more = stats_column(stats, "region." + std::to_string(regions)) >= 0;
    if (first < 0 || has_more || stats_column(stats, "region." + std::to_string(regions - 1)) < 0) {
      throw std::runtime_error("information_flow: the run's attention statistics do not have " +
                               std::to_string(regions) + " regions; give --regions as the run's attention_regions");
    }
    std::vector<double> shares(regions);
    for (int64_t row = 0; row < stats.num_queries; ++row) {
      const auto at = static_cast<size_t>(row);
      const float* const values = stats.values.data() + at * stats.columns.size() + first;
      std::copy(values, values + regions, shares.begin());
      const std::vector<int64_t> cuts = region_boundaries(stats.num_keys[at], options().regions, 0);
      const auto above = std::upper_bound(cuts.begin() + 1, cuts.end() - 1, stats.position[at]);
      add_token(stats.tokens, row, static_cast<int32_t>(above - cuts.begin()) - 1, shares, sums);
    }
  }

 private:
  void add_token(const LayerTokens& tokens, int64_t row, int32_t from, std::span<const double> shares,
                 ExactTable& sums) const {
    const auto ids = tokens.ids_of(row);
    const auto gates = tokens.gates_of(row);
    if (gates.empty()) return;
    for (size_t k = 0; k < ids.size(); ++k) {
      if (ids[k] >= 0) sums.add_row(ids[k] * options().regions + from, gates[k], shares);
    }
  }

  /// Sums [E, R, R] of a layer; empty: there are none.
  std::vector<double> flow_of(int64_t layer) const {
    if (sums(layer)) return sums(layer)->sums.values();
    std::vector<double> flow;
    if (totals(layer)) {
      flow = totals(layer)->flow;
      const auto regions = static_cast<size_t>(options().regions);
      if (totals(layer)->num_regions != options().regions) {
        throw std::runtime_error("information_flow: the summary's attention has " +
                                 std::to_string(totals(layer)->num_regions) + " regions, --regions says " +
                                 std::to_string(regions));
      }
      for (size_t i = 0; i < flow.size(); ++i) flow[i] *= totals(layer)->flow_weight[i / regions];
    }
    return flow;
  }
};

Result InformationFlow::finalize() const {
  Table table("information_flow");
  auto& layers = table.integers("layer");
  auto& experts = table.integers("expert_id");
  auto& from_regions = table.integers("from_region");
  auto& to_regions = table.integers("to_region");
  auto& shares = table.reals("share");
  auto& weights = table.reals("weight");
  const auto regions = static_cast<size_t>(options().regions);
  double kept = 0, all = 0;  // of the mass, what stays in the query's region
  double best = -1;
  std::string best_expert;
  for (int64_t l = 0; l < num_layers(); ++l) {
    const std::vector<double> flow = flow_of(l);
    for (size_t row = 0; row < flow.size() / regions; ++row) {
      const auto from = row % regions;
      const double* const into = flow.data() + row * regions;
      double weight = 0;
      for (size_t to = 0; to < regions; ++to) weight += into[to];
      for (size_t to = 0; to < regions; ++to) {
        layers.push_back(l + 1);
        experts.push_back(static_cast<int64_t>(row / regions));
        from_regions.push_back(static_cast<int64_t>(from) + 1);
        to_regions.push_back(static_cast<int64_t>(to) + 1);
        shares.push_back(weight > 0 ? into[to] / weight : 0);
        weights.push_back(weight);
        if (to != from && shares.back() > best) {
          best = shares.back();
          best_expert = "the strongest flow between two regions is that of expert " + std::to_string(row / regions) +
                        " of layer " + layer_name(l) + ": from region " + std::to_string(from + 1) + " to region " +
                        std::to_string(to + 1) + " go " + percent_text(best);
        }
      }
      kept += into[from];
      all += weight;
    }
  }
  Result result;
  result.sentence = no_attention();
  if (all > 0) {
    result.sentence = percent_text(kept / all) + " of attention stays in the query's own of " +
                      std::to_string(regions) + " regions (gate-weighted)";
    if (best >= 0) result.sentence += "; " + best_expert;
  }
  result.tables.push_back(std::move(table));
  add_notices(result);
  add_notice_of_regions(result);
  return result;
}

}  // namespace

std::unique_ptr<Study> make_information_flow(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<InformationFlow>(shape, options);
}

}  // namespace moetap::analysis::studies
