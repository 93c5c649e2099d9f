#include "analysis/studies/switch_tables.h"

#include <utility>

#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

Table table_of(const std::vector<SwitchRow>& rows, bool is_saturation) {
  Table table(is_saturation ? "saturation" : "switch_fraction");
  auto& run_a = table.texts(is_saturation ? "run" : "run_a");
  auto& run_b = table.texts(is_saturation ? "last_run" : "run_b");
  auto& component = table.texts("component");
  auto& layer = table.texts("layer");
  auto& samples = table.integers("samples");
  auto& value = table.reals(is_saturation ? "position_match" : "switch_fraction");
  for (const SwitchRow& row : rows) {
    run_a.push_back(row.run_a);
    run_b.push_back(row.run_b);
    component.push_back(row.component);
    layer.push_back(row.layer);
    samples.push_back(row.fraction.count);
    value.push_back(is_saturation ? 1 - row.fraction.mean() : row.fraction.mean());
  }
  return table;
}

}  // namespace

Result switch_result(const std::vector<SwitchRow>& rows, const std::vector<SwitchRow>& against_last) {
  Result result;
  std::vector<double> fractions;
  for (const SwitchRow& row : rows) fractions.push_back(row.fraction.mean());
  if (const int64_t most = place_of_largest(fractions); most >= 0) {
    const SwitchRow& row = rows[static_cast<size_t>(most)];
    const int64_t least = place_of_smallest(fractions);
    result.sentence = "layer " + row.layer + " switches most: " + percent_text(row.fraction.mean()) +
                      " of its slots hold another expert in " + row.run_b + " than in " + row.run_a + "; least layer " +
                      rows[static_cast<size_t>(least)].layer + ", " +
                      percent_text(fractions[static_cast<size_t>(least)]);
  } else {
    result.sentence = "the runs have no sample in common";
  }
  result.tables.push_back(table_of(rows, false));
  result.tables.push_back(table_of(against_last, true));
  return result;
}

}  // namespace moetap::analysis::studies
