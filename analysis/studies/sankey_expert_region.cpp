#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "analysis/studies/row_scratch.h"
#include "analysis/studies/sample_queries.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

constexpr int64_t kSample = 42;
constexpr int64_t kLayer = 3;
constexpr int64_t kTop = 10;
constexpr int64_t kShown = 100;  // positions, for legibility
constexpr double kGateThreshold = 0.1;
constexpr double kLinkShare = 0.05;  // of what an expert's tokens attend to
constexpr double kNotebookGateScale = 100;
constexpr double kNotebookShareScale = 200;

/// Positions of a sample → its most used experts → the regions that their tokens attend to, of its first 100 tokens.
/// A query keeps its mass in each region, and behind them its sum over the shown keys.
class SankeyExpertRegion : public SampleStudy {
 public:
  SankeyExpertRegion(const ComponentShape& shape, const StudyOptions& options)
      : SampleStudy(shape, options, kSample, kLayer),
        top_(options.top > 0 ? options.top : kTop),
        threshold_(options.threshold >= 0 ? options.threshold : kGateThreshold),
        link_share_(options.link_share >= 0 ? options.link_share : kLinkShare) {}

  Result finalize() const override;

 protected:
  size_t num_masses() const override { return static_cast<size_t>(options().regions) + 1; }
  void read_row(int64_t query, const std::vector<double>& row, SampleQuery& into, SampleRecord&) const override {
    const int64_t shown = std::min(static_cast<int64_t>(row.size()), kShown);
    if (query >= shown) return;
    const std::vector<int64_t> cuts = boundaries(shown);
    into.masses.assign(cuts.size(), 0);
    for (size_t r = 0; r + 1 < cuts.size(); ++r) {
      for (int64_t j = cuts[r]; j < cuts[r + 1]; ++j) into.masses[r] += row[static_cast<size_t>(j)];
    }
    for (int64_t j = 0; j < shown; ++j) into.masses.back() += row[static_cast<size_t>(j)];
  }

 private:
  /// The notebook's regions are all of n div R positions: what is left belongs to none.
  std::vector<int64_t> boundaries(int64_t shown) const {
    if (!is_notebook()) return region_boundaries(shown, options().regions, 0);
    std::vector<int64_t> cuts;
    for (int64_t r = 0; r <= options().regions; ++r) cuts.push_back(r * (shown / options().regions));
    return cuts;
  }

  /// What the tokens of an expert attend to, [R]; the notebook counts a token once, without its gate.
  std::vector<double> flow_of(int64_t expert, int64_t shown) const {
    std::vector<double> flow(static_cast<size_t>(options().regions));
    for (const auto& [position, query] : record()->queries) {
      if (position >= shown || query.masses.size() != flow.size() + 1) continue;
      double gate = 0;
      int64_t slots = 0;
      for (size_t k = 0; k < query.ids.size(); ++k) {
        if (query.ids[k] != expert) continue;
        gate += query.gates[k];
        ++slots;
      }
      const double total = query.masses.back();
      if (slots == 0 || (!is_notebook() && !(total > 0))) continue;
      const double factor = is_notebook() ? 1 : gate / total;
      for (size_t r = 0; r < flow.size(); ++r) flow[r] += factor * query.masses[r];
    }
    return flow;
  }

  const int64_t top_;
  const double threshold_, link_share_;
};

Result SankeyExpertRegion::finalize() const {
  SankeyLinks links;
  Table bar("expert_usage_bar");
  auto& ranks = bar.integers("rank");
  auto& experts = bar.integers("expert_id");
  auto& usages = bar.reals("usage");
  Result result;
  result.sentence = "no attention of the sample was seen";
  const int64_t shown = record() == nullptr ? 0 : std::min(record()->num_keys, kShown);
  std::vector<double> usage;
  if (record() != nullptr) usage = gate_usage(*record(), shown, num_experts());
  const std::vector<int64_t> top = top_of_usage(usage, top_, is_notebook());
  double shown_usage = 0, all_usage = 0;
  for (const double one : usage) all_usage += one;
  for (const int64_t e : top) {
    ranks.push_back(static_cast<int64_t>(ranks.size()) + 1);
    experts.push_back(e);
    usages.push_back(usage[static_cast<size_t>(e)]);
    shown_usage += usages.back();
  }
  if (record() != nullptr) {
    for (const auto& [position, query] : record()->queries) {
      if (position >= shown) break;
      for (size_t k = 0; k < query.ids.size(); ++k) {
        const bool is_top = std::find(top.begin(), top.end(), query.ids[k]) != top.end();
        if (query.ids[k] < 0 || !is_top || !(query.gates[k] > threshold_)) continue;
        links.add(1, "Pos " + std::to_string(position + 1), "Expert " + std::to_string(query.ids[k]),
                  is_notebook() ? kNotebookGateScale * query.gates[k] : query.gates[k]);
      }
    }
  }
  const std::vector<int64_t> cuts = boundaries(shown);
  for (const int64_t e : top) {
    const std::vector<double> flow = flow_of(e, shown);
    double total = 0;
    for (const double one : flow) total += one;
    for (size_t r = 0; r < flow.size(); ++r) {
      if (!(flow[r] > link_share_ * total)) continue;
      links.add(2, "Expert " + std::to_string(e),
                "Region " + std::to_string(r + 1) + " " + position_range(cuts[r], cuts[r + 1]),
                is_notebook() ? kNotebookShareScale * (flow[r] / total) : flow[r]);
    }
  }
  if (all_usage > 0) {
    result.sentence = "in sample " + std::to_string(sample()) + ", layer " + layer_name() + ", expert " +
                      std::to_string(top.front()) + " is used most, with " + percent_text(usages.front() / all_usage) +
                      " of the gates of the first " + count_text(shown, "token", "tokens") + "; the " +
                      count_text(static_cast<int64_t>(top.size()), "expert", "experts") + " shown have " +
                      percent_text(shown_usage / all_usage);
  }
  result.tables.push_back(links.table("sankey_expert_region"));
  result.tables.push_back(std::move(bar));
  add_notices(result);
  return result;
}

}  // namespace

std::unique_ptr<Study> make_sankey_expert_region(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<SankeyExpertRegion>(shape, options);
}

}  // namespace moetap::analysis::studies
