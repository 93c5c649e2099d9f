#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/attention_study.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

constexpr const char* kRegionColumns[kNumPlaneRegions] = {"diagonal",   "long_range", "n_terminal",
                                                          "c_terminal", "n_to_c",     "c_to_n"};
constexpr int64_t kSpecializationSums = 2 * kNumPlaneRegions;

/// Which of six regions of the plane of queries and keys each expert's tokens attend to more than their share. Sums by
/// expert, recommended: of g * mass in each region, of g * its share of the keys. Notebook: of g * cells of the plane
/// in each region, then in all.
class RegionSpecialization : public AttentionStudy {
 public:
  using AttentionStudy::AttentionStudy;

  Result finalize() const override;

 protected:
  int64_t table_rows(int64_t num_experts) const override { return num_experts; }
  int64_t table_width() const override { return kSpecializationSums; }

  void add(const AttentionRows& rows, const RowValues& values, ExactTable& sums) override {
    double terms[kSpecializationSums] = {};
    for (int64_t row = 0; row < rows.num_queries; ++row) {
      const auto at = static_cast<size_t>(row);
      const double* const plane = values.plane.data() + at * kNumPlaneRegions;
      const double* const share = values.share.data() + at * kNumPlaneRegions;
      if (is_notebook()) {
        std::copy(plane, plane + kNumPlaneRegions, terms);
        terms[kNumPlaneRegions] = values.block[at];
      } else {
        if (!(values.sum[at] > 0)) continue;
        for (int64_t r = 0; r < kNumPlaneRegions; ++r) {
          terms[r] = plane[r] / values.sum[at];
          terms[kNumPlaneRegions + r] = share[r];
        }
      }
      const auto ids = rows.tokens.ids_of(row);
      const auto gates = rows.tokens.gates_of(row);
      for (size_t k = 0; k < gates.size(); ++k) {
        if (ids[k] >= 0) sums.add_row(ids[k], gates[k], terms);
      }
    }
  }
  /// The dump has no mass of the quarters: layers of it are finalized from the summary's totals.
  void add(const AttentionStats&, ExactTable&) override {}
  void observe(const AttentionStats& stats) override { note_stats(stats.layer); }

 private:
  /// Values of the six regions of an expert.
  std::vector<double> values_of(int64_t layer, int64_t expert) const;
};

/// Cells of each region in a plane of n queries and keys.
std::vector<double> cells_of(int64_t n) {
  std::vector<double> cells(kNumPlaneRegions);
  const int64_t q = n / 4, c = 3 * n / 4;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      cells[kDiagonal] += std::abs(i - j) <= kBandWidth;
      cells[kLongRange] += std::abs(i - j) > n / 2;
      cells[kNTerminal] += i < q && j < q;
      cells[kCTerminal] += i >= c && j >= c;
      cells[kNToC] += i < q && j >= c;
      cells[kCToN] += i >= c && j < q;
    }
  }
  return cells;
}

std::vector<double> RegionSpecialization::values_of(int64_t layer, int64_t expert) const {
  std::vector<double> values;
  if (!sums(layer)) {
    const double* const found = totals(layer)->specialization.data() + expert * kNumPlaneRegions;
    values.assign(found, found + kNumPlaneRegions);
    return values;
  }
  const ExactTable& table = sums(layer)->sums;
  const int64_t n = std::min(kNotebookPlane, sums(layer)->padded_length);
  const std::vector<double> cells = is_notebook() ? cells_of(n) : std::vector<double>(kNumPlaneRegions);
  const double block = table.value(expert, kNumPlaneRegions);
  for (int64_t r = 0; r < kNumPlaneRegions; ++r) {
    const double observed = table.value(expert, r);
    if (!is_notebook()) {
      const double expected = table.value(expert, kNumPlaneRegions + r);
      values.push_back(expected > 0 ? observed / expected : kUndefined);
    } else if (cells[static_cast<size_t>(r)] == 0) {
      values.push_back(0);
    } else {
      const auto all_cells = static_cast<double>(n * n);
      values.push_back(block != 0 ? (observed / cells[static_cast<size_t>(r)]) / (block / all_cells) : kUndefined);
    }
  }
  return values;
}

/// Largest minus smallest of the defined values.
double span_of(const std::vector<double>& values) {
  double smallest = kUndefined, largest = kUndefined;
  for (const double value : values) {
    if (std::isnan(value)) continue;
    smallest = std::isnan(smallest) ? value : std::min(smallest, value);
    largest = std::isnan(largest) ? value : std::max(largest, value);
  }
  return largest - smallest;
}

Result RegionSpecialization::finalize() const {
  Table table("region_specialization");
  auto& layers = table.integers("layer");
  auto& experts = table.integers("expert_id");
  std::vector<std::vector<double>*> columns;
  for (const char* const name : kRegionColumns) columns.push_back(&table.reals(name));
  auto& spans = table.reals("span");
  Result result;
  result.sentence = no_attention();
  double widest = -1;
  for (int64_t l = 0; l < num_layers(); ++l) {
    if (!sums(l) && !totals(l)) continue;
    for (int64_t e = 0; e < num_experts(l); ++e) {
      const std::vector<double> values = values_of(l, e);
      layers.push_back(l + 1);
      experts.push_back(e);
      for (size_t r = 0; r < columns.size(); ++r) columns[r]->push_back(values[r]);
      spans.push_back(span_of(values));
      if (!(spans.back() > widest)) continue;
      widest = spans.back();
      size_t best = 0;
      for (size_t r = 0; r < values.size(); ++r) {
        if (std::isnan(values[best]) || values[r] > values[best]) best = r;
      }
      result.sentence = "expert " + std::to_string(e) + " of layer " + layer_name(l) +
                        " is the most specialised: its tokens attend to " + kRegionColumns[best] + " " +
                        number_text(values[best]) + " times as much as its share of the keys (uniform attention: 1)";
    }
  }
  result.tables.push_back(std::move(table));
  add_notices(result);
  add_notice_of_regions(result);
  return result;
}

}  // namespace

std::unique_ptr<Study> make_region_specialization(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<RegionSpecialization>(shape, options);
}

}  // namespace moetap::analysis::studies
