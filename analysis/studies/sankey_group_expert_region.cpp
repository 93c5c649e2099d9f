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

constexpr int64_t kLayer = 3;
constexpr int64_t kTop = 8;
constexpr int64_t kGroups = 8;
constexpr int64_t kRegions = 4;
constexpr int64_t kNotebookLength = 140;
constexpr double kGroupShare = 0.01;     // of an expert's gates
constexpr double kNotebookGates = 0.05;  // sum of gates of a group
constexpr double kNotebookShare = 0.05;  // of what an expert's tokens attend to
constexpr double kNotebookGroupScale = 15;
constexpr double kNotebookShareScale = 20;

/// Groups of positions of a sample → its most used experts → the regions that their tokens attend to. Recommended:
/// both stages are sums of gates, and what flows into an expert flows out of it.
class SankeyGroupExpertRegion : public SampleStudy {
 public:
  SankeyGroupExpertRegion(const ComponentShape& shape, const StudyOptions& options)
      : SampleStudy(shape, options, 0, kLayer), top_(options.top > 0 ? options.top : kTop) {
    const double standard = is_notebook() ? kNotebookGates : kGroupShare;
    threshold_ = options.threshold >= 0 ? options.threshold : standard;
    link_share_ = options.link_share >= 0 ? options.link_share : is_notebook() ? kNotebookShare : 0;
  }

  Result finalize() const override;

 protected:
  size_t num_masses() const override { return kRegions + 1; }
  void read_row(int64_t query, const std::vector<double>& row, SampleQuery& into, SampleRecord&) const override {
    const int64_t length = length_of(static_cast<int64_t>(row.size()));
    if (query >= length) return;
    const std::vector<int64_t> cuts = parts(length, kRegions);
    into.masses.assign(cuts.size(), 0);
    for (size_t r = 0; r + 1 < cuts.size(); ++r) {
      for (int64_t j = cuts[r]; j < cuts[r + 1]; ++j) into.masses[r] += row[static_cast<size_t>(j)];
    }
    for (int64_t j = 0; j < length; ++j) into.masses.back() += row[static_cast<size_t>(j)];
  }

 private:
  int64_t length_of(int64_t num_keys) const { return is_notebook() ? std::min(num_keys, kNotebookLength) : num_keys; }

  /// The notebook's parts are all of n div R positions.
  std::vector<int64_t> parts(int64_t length, int64_t count) const {
    if (!is_notebook()) return region_boundaries(length, count, 0);
    std::vector<int64_t> cuts;
    for (int64_t r = 0; r <= count; ++r) cuts.push_back(r * (length / count));
    return cuts;
  }
  /// The notebook's last group takes what is left over; it needs a position for each group.
  int64_t group_of(int64_t position, int64_t length) const {
    if (is_notebook()) return std::min(position / (length / kGroups), kGroups - 1);
    const std::vector<int64_t> cuts = parts(length, kGroups);
    return std::upper_bound(cuts.begin() + 1, cuts.end() - 1, position) - cuts.begin() - 1;
  }

  int64_t top_;
  double threshold_ = 0, link_share_ = 0;
};

/// The flow through one expert.
struct ExpertFlow {
  std::vector<double> from = std::vector<double>(kGroups);
  std::vector<double> to = std::vector<double>(kRegions);
};

double sum_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

Result SankeyGroupExpertRegion::finalize() const {
  SankeyLinks links;
  Result result;
  result.sentence = "no attention of the sample was seen";
  int64_t length = record() == nullptr ? 0 : length_of(record()->num_keys);
  if (is_notebook() && length < kGroups) length = 0;  // there the notebook divides by 0
  std::vector<double> usage;
  std::vector<ExpertFlow> flows(static_cast<size_t>(num_experts()));
  if (length > 0) {
    usage = gate_usage(*record(), length, num_experts());
    for (const auto& [position, query] : record()->queries) {
      if (position >= length) break;
      const auto group = static_cast<size_t>(group_of(position, length));
      for (size_t k = 0; k < query.ids.size(); ++k) {
        if (query.ids[k] < 0) continue;
        ExpertFlow& flow = flows[static_cast<size_t>(query.ids[k])];
        flow.from[group] += query.gates[k];
        if (query.masses.empty()) continue;
        const double total = is_notebook() ? 1 : query.masses.back();
        if (!(total > 0)) continue;
        for (size_t r = 0; r < flow.to.size(); ++r) flow.to[r] += query.gates[k] * query.masses[r] / total;
      }
    }
  }
  const std::vector<int64_t> top = top_of_usage(usage, top_, is_notebook());
  const std::vector<int64_t> groups = parts(length, kGroups), regions = parts(length, kRegions);
  for (size_t q = 0; q < kGroups; ++q) {
    for (const int64_t e : top) {
      const ExpertFlow& flow = flows[static_cast<size_t>(e)];
      const double least = is_notebook() ? threshold_ : threshold_ * sum_of(flow.from);
      if (!(flow.from[q] > least)) continue;
      links.add(1, "Pos " + std::to_string(groups[q] + 1) + "-" + std::to_string(groups[q + 1]),
                "Expert " + std::to_string(e), is_notebook() ? kNotebookGroupScale * flow.from[q] : flow.from[q]);
    }
  }
  double strongest = -1;
  for (const int64_t e : top) {
    const std::vector<double>& to = flows[static_cast<size_t>(e)].to;
    const double total = sum_of(to);
    for (size_t r = 0; r < to.size(); ++r) {
      if (!(to[r] > link_share_ * total)) continue;
      const std::string region = "Region " + std::to_string(r + 1) + " " + position_range(regions[r], regions[r + 1]);
      links.add(2, "Expert " + std::to_string(e), region,
                is_notebook() ? kNotebookShareScale * (to[r] / total) : to[r]);
      if (!(to[r] / total > strongest)) continue;
      strongest = to[r] / total;
      result.sentence = "in sample " + std::to_string(sample()) + ", layer " + layer_name() + ", of the " +
                        count_text(static_cast<int64_t>(top.size()), "expert", "experts") + " used most expert " +
                        std::to_string(e) + " looks at one region most: " + percent_text(strongest) +
                        " of its attention goes to positions " + std::to_string(regions[r] + 1) + " to " +
                        std::to_string(regions[r + 1]);
    }
  }
  result.tables.push_back(links.table("sankey_group_expert_region"));
  add_notices(result);
  return result;
}

}  // namespace

std::unique_ptr<Study> make_sankey_group_expert_region(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<SankeyGroupExpertRegion>(shape, options);
}

}  // namespace moetap::analysis::studies
