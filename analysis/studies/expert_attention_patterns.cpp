#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "analysis/studies/attention_study.h"
#include "analysis/studies/expert_ranking.h"
#include "analysis/studies/pattern_sums.h"
#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

/// Sums by expert.
enum Sum : int64_t { kMass, kDistance, kStrength, kNumSums };  // g, g * distance, g * n * sum of the row

/// The columns of the table.
struct SummaryColumns {
  explicit SummaryColumns(Table& table)
      : layer(table.integers("layer")),
        expert(table.integers("expert_id")),
        mass(table.reals("gate_mass")),
        share(table.reals("gate_share")),
        distance(table.reals("mean_distance")),
        strength(table.reals("strength_nb")) {}

  std::vector<int64_t>&layer, &expert;
  std::vector<double>&mass, &share, &distance, &strength;
};

/// How far each expert's tokens look, and with `--matrices` what they look at: patterns P[e, i, j].
///
/// Recommended: the mean over tokens at query i, weighted by g. Notebook: V[b, e, :], the sum of all g * A of a sample,
/// is added to each of its queries, so rows hold no more than the lengths n_b: the sums are by length here.
class ExpertAttentionPatterns : public AttentionStudy {
 public:
  ExpertAttentionPatterns(const ComponentShape& shape, const StudyOptions& options)
      : AttentionStudy(shape, options), patterns_(shape.layers.size()), weights_(shape.layers.size()) {}

  void merge(const Study& other) override;
  void save(ByteSink& sink) const override;
  void load(ByteSource& source) override;
  Result finalize() const override;

 protected:
  int64_t table_rows(int64_t num_experts) const override { return num_experts; }
  int64_t table_width() const override { return kNumSums; }
  void add(const AttentionRows& rows, const RowValues& values, ExactTable& sums) override;
  void add(const AttentionStats& stats, ExactTable& sums) override;

 private:
  void add_patterns(const AttentionRows& rows, int64_t row, int32_t expert, double gate);
  void add_rows(SummaryColumns& columns, int64_t layer, Result& result, double& farthest) const;
  Matrix matrix_of(int64_t layer) const;

  std::vector<std::optional<PatternSums>> patterns_;  // [L]; only with --matrices
  std::vector<std::optional<ExactTable>> weights_;    // [L] of [E, S]: sums of g by query; only with --matrices
};

void ExpertAttentionPatterns::add(const AttentionRows& rows, const RowValues& values, ExactTable& sums) {
  double terms[kNumSums] = {1, 0, 0};
  for (int64_t row = 0; row < rows.num_queries; ++row) {
    const auto at = static_cast<size_t>(row);
    if (is_run() && values.sum[at] == 0) continue;  // no row of attention: Note [Attention by expert]
    terms[kDistance] = values.distance[at];
    terms[kStrength] = static_cast<double>(rows.num_keys) * values.sum[at];
    const auto ids = rows.tokens.ids_of(row);
    const auto gates = rows.tokens.gates_of(row);
    for (size_t k = 0; k < gates.size(); ++k) {
      if (ids[k] < 0) continue;
      sums.add_row(ids[k], gates[k], terms);
      if (options().matrices) add_patterns(rows, row, ids[k], gates[k]);
    }
  }
}

void ExpertAttentionPatterns::add_patterns(const AttentionRows& rows, int64_t row, int32_t expert, double gate) {
  const auto l = static_cast<size_t>(rows.layer);
  const int64_t experts = num_experts(rows.layer);
  if (!patterns_[l]) {
    patterns_[l].emplace(experts, rows.padded_length);
    weights_[l].emplace(experts, rows.padded_length);
  }
  const int64_t query = rows.first_query + row;
  const int64_t line = is_notebook() ? rows.num_keys - 1 : query;
  if (rows.padded_length != patterns_[l]->length() || rows.num_keys > rows.padded_length ||
      query >= rows.padded_length) {
    throw std::runtime_error("expert_attention_patterns: rows of different padded lengths");
  }
  if (rows.f32 != nullptr) {
    patterns_[l]->add(expert, line, gate, rows.f32 + row * rows.row_stride, rows.num_keys);
  } else {
    patterns_[l]->add(expert, line, gate, rows.f64 + row * rows.row_stride, rows.num_keys);
  }
  weights_[l]->add(expert, query, gate);
}

void ExpertAttentionPatterns::add(const AttentionStats& stats, ExactTable& sums) {
  const int64_t distance = stats_column(stats, "distance"), mass = stats_column(stats, "key_mass");
  if (distance < 0 || mass < 0) {
    throw std::runtime_error("expert_attention_patterns: the attention statistics have no distance or key_mass");
  }
  double terms[kNumSums] = {1, 0, 0};
  for (int64_t row = 0; row < stats.num_queries; ++row) {
    const auto at = static_cast<size_t>(row);
    const float* const values = stats.values.data() + at * stats.columns.size();
    const auto key_mass = static_cast<double>(values[mass]);
    if (key_mass == 0) continue;  // as above
    terms[kDistance] = static_cast<double>(values[distance]) * key_mass;
    terms[kStrength] = static_cast<double>(stats.num_keys[at]) * key_mass;
    const auto ids = stats.tokens.ids_of(row);
    const auto gates = stats.tokens.gates_of(row);
    for (size_t k = 0; k < gates.size(); ++k) {
      if (ids[k] >= 0) sums.add_row(ids[k], gates[k], terms);
    }
  }
}

void ExpertAttentionPatterns::merge(const Study& other) {
  AttentionStudy::merge(other);
  const auto& from = dynamic_cast<const ExpertAttentionPatterns&>(other);
  for (size_t l = 0; l < patterns_.size(); ++l) {
    if (!from.patterns_[l]) continue;
    if (!patterns_[l]) {
      patterns_[l] = from.patterns_[l];
      weights_[l] = from.weights_[l];
    } else {
      patterns_[l]->merge(*from.patterns_[l]);
      weights_[l]->merge(*from.weights_[l]);
    }
  }
}

void ExpertAttentionPatterns::save(ByteSink& sink) const {
  AttentionStudy::save(sink);
  for (size_t l = 0; l < patterns_.size(); ++l) {
    sink.integer(patterns_[l].has_value());
    if (!patterns_[l]) continue;
    patterns_[l]->save(sink);
    weights_[l]->save(sink);
  }
}

void ExpertAttentionPatterns::load(ByteSource& source) {
  AttentionStudy::load(source);
  for (size_t l = 0; l < patterns_.size(); ++l) {
    patterns_[l].reset();
    weights_[l].reset();
    if (source.integer() == 0) continue;
    const int64_t experts = num_experts(static_cast<int64_t>(l));
    patterns_[l].emplace(experts, 0).load(source);
    weights_[l].emplace(experts, patterns_[l]->length()).load(source);
  }
}

Matrix ExpertAttentionPatterns::matrix_of(int64_t layer) const {
  const PatternSums& sums = *patterns_[static_cast<size_t>(layer)];
  const ExactTable& weights = *weights_[static_cast<size_t>(layer)];
  const int64_t experts = sums.num_experts(), length = sums.length();
  Matrix matrix{"expert_attention_patterns_layer" + std::to_string(layer + 1), {experts, length, length}, {}};
  matrix.values.resize(static_cast<size_t>(experts * length * length));
  for (int64_t e = 0; e < experts; ++e) {
    double mass = 0;
    for (int64_t i = 0; i < length; ++i) mass += weights.value(e, i);
    std::vector<double> line(static_cast<size_t>(length));
    for (int64_t i = length - 1; i >= 0; --i) {
      const double weight = is_notebook() ? mass : weights.value(e, i);
      for (int64_t j = 0; j < length; ++j) {
        // The notebook's row i has the samples of more than i tokens: sums of the lines from i on.
        double& sum = line[static_cast<size_t>(j)];
        sum = (is_notebook() ? sum : 0) + sums.value(e, i, j);
        const auto cell = static_cast<size_t>((e * length + i) * length + j);
        matrix.values[cell] = weight > 0 ? static_cast<float>(sum / weight) : 0.0F;
      }
    }
  }
  return matrix;
}

void ExpertAttentionPatterns::add_rows(SummaryColumns& columns, int64_t layer, Result& result, double& farthest) const {
  const int64_t experts = num_experts(layer);
  std::vector<double> mass, distance, strength;
  for (int64_t e = 0; e < experts; ++e) {
    if (!sums(layer)) {
      mass.push_back(totals(layer)->gate_mass[static_cast<size_t>(e)]);
      distance.push_back(totals(layer)->mean_distance[static_cast<size_t>(e)]);
      strength.push_back(kUndefined);  // the summary has no lengths
      continue;
    }
    const ExactTable& found = sums(layer)->sums;
    const auto length = static_cast<double>(sums(layer)->padded_length);
    mass.push_back(found.value(e, kMass));
    distance.push_back(mass.back() > 0 ? found.value(e, kDistance) / mass.back() : kUndefined);
    const double cells = mass.back() * length * length;
    strength.push_back(length == 0 ? kUndefined : cells > 0 ? found.value(e, kStrength) / cells : 0);
  }
  double total = 0, mean = 0;
  for (const double one : mass) total += one;
  for (int64_t e = 0; e < experts; ++e) {
    const auto at = static_cast<size_t>(e);
    if (mass[at] > 0) mean += mass[at] / total * distance[at];
  }
  for (int64_t e = 0; e < experts; ++e) {
    const auto at = static_cast<size_t>(e);
    columns.layer.push_back(layer + 1);
    columns.expert.push_back(e);
    columns.mass.push_back(mass[at]);
    columns.share.push_back(total > 0 ? mass[at] / total : kUndefined);
    columns.distance.push_back(distance[at]);
    columns.strength.push_back(strength[at]);
    if (!(distance[at] > farthest)) continue;
    farthest = distance[at];
    result.sentence = "tokens of expert " + std::to_string(e) + " of layer " + layer_name(layer) +
                      " look farthest: " + number_text(farthest) +
                      " positions on average (its layer: " + number_text(mean) + "), with " +
                      percent_text(mass[at] / total) + " of the layer's gate mass";
  }
}

Result ExpertAttentionPatterns::finalize() const {
  Table table("expert_attention_summary");
  SummaryColumns columns(table);
  Result result;
  result.sentence = no_attention();
  double farthest = -1;
  int64_t left_out = 0;
  for (int64_t l = 0; l < num_layers(); ++l) {
    if (sums(l) || totals(l)) add_rows(columns, l, result, farthest);
    if (!patterns_[static_cast<size_t>(l)]) continue;
    result.matrices.push_back(matrix_of(l));
    left_out += patterns_[static_cast<size_t>(l)]->out_of_range_rows();
  }
  if (left_out > 0) {
    result.notices.push_back(std::to_string(left_out) +
                             " rows have a gate times probability beyond 8 or NaN and are not in the matrices");
  }
  result.tables.push_back(std::move(table));
  add_notices(result);
  return result;
}

}  // namespace

std::unique_ptr<Study> make_expert_attention_patterns(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<ExpertAttentionPatterns>(shape, options);
}

}  // namespace moetap::analysis::studies
