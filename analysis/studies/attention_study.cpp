#include "analysis/studies/attention_study.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <stdexcept>

namespace moetap::analysis::studies {
namespace {

constexpr int64_t kMaxLength = int64_t{1} << 31;  // of a sample, in a partial

std::vector<double> copy_of(std::span<const double> values) {
  return {values.begin(), values.end()};
}

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

}  // namespace

LayerTotals::LayerTotals(const AttentionTotals& totals)
    : num_experts(totals.num_experts),
      num_regions(totals.num_regions),
      gate_mass(copy_of(totals.gate_mass)),
      mean_distance(copy_of(totals.mean_distance)),
      flow(copy_of(totals.flow)),
      flow_weight(copy_of(totals.flow_weight)),
      specialization(copy_of(totals.specialization)) {
  const auto experts = static_cast<size_t>(num_experts), regions = static_cast<size_t>(num_regions);
  const bool fits = gate_mass.size() == experts && mean_distance.size() == experts &&
                    flow.size() == experts * regions * regions && flow_weight.size() == experts * regions &&
                    specialization.size() == experts * kNumPlaneRegions;
  if (!fits) throw std::runtime_error("the summary's sums of attention by expert have other sizes than its experts");
}

bool LayerTotals::operator==(const LayerTotals& other) const {
  return num_experts == other.num_experts && num_regions == other.num_regions && same(gate_mass, other.gate_mass) &&
         same(mean_distance, other.mean_distance) && same(flow, other.flow) && same(flow_weight, other.flow_weight) &&
         same(specialization, other.specialization);
}

void LayerTotals::save(ByteSink& sink) const {
  sink.integer(num_experts);
  sink.integer(num_regions);
  for (const auto* values : {&gate_mass, &mean_distance, &flow, &flow_weight, &specialization}) sink.values(*values);
}

void LayerTotals::load(ByteSource& source, int64_t experts) {
  AttentionTotals totals;
  totals.num_experts = source.integer();
  totals.num_regions = source.integer();
  const bool fits = totals.num_experts == experts && totals.num_regions >= 1 && totals.num_regions <= kMaxRegions;
  if (!fits) ByteSource::refuse();
  std::vector<double> values[5];
  for (auto& read : values) read = source.values<double>();
  totals.gate_mass = values[0];
  totals.mean_distance = values[1];
  totals.flow = values[2];
  totals.flow_weight = values[3];
  totals.specialization = values[4];
  *this = LayerTotals(totals);
}

AttentionStudy::AttentionStudy(const ComponentShape& shape, const StudyOptions& options)
    : shape_(shape),
      options_(options),
      names_(layer_names(shape)),
      layers_(shape.layers.size()),
      totals_(shape.layers.size()),
      has_stats_(shape.layers.size()) {}

AttentionStudy::LayerSums& AttentionStudy::layer_sums(int64_t layer) {
  std::optional<LayerSums>& sums = layers_.at(static_cast<size_t>(layer));
  if (!sums) sums.emplace(LayerSums{ExactTable(table_rows(num_experts(layer)), table_width())});
  return *sums;
}

void AttentionStudy::observe(const AttentionRows& rows) {
  LayerSums& layer = layer_sums(rows.layer);
  layer.padded_length = std::max(layer.padded_length, rows.padded_length);
  if (rows.values == nullptr) own_scratch_.begin();
  const RowValues& values = (rows.values != nullptr ? *rows.values : own_scratch_).of(rows, options_);
  add(rows, values, layer.sums);
}

void AttentionStudy::observe(const AttentionStats& stats) {
  note_stats(stats.layer);
  LayerSums& layer = layer_sums(stats.layer);
  for (const int64_t keys : stats.num_keys) layer.padded_length = std::max(layer.padded_length, keys);
  add(stats, layer.sums);
}

void AttentionStudy::observe(const AttentionTotals& totals) {
  std::optional<LayerTotals>& layer = totals_.at(static_cast<size_t>(totals.layer));
  LayerTotals found(totals);
  if (layer && !(*layer == found)) {
    throw std::runtime_error("two summaries have attention of layer " + layer_name(totals.layer) +
                             ": merge the runs first (moetap merge)");
  }
  layer = std::move(found);
}

void AttentionStudy::merge(const Study& other) {
  const auto& from = dynamic_cast<const AttentionStudy&>(other);
  for (size_t l = 0; l < layers_.size(); ++l) {
    has_stats_[l] |= from.has_stats_[l];
    if (from.layers_[l]) {
      LayerSums& into = layer_sums(static_cast<int64_t>(l));
      into.sums.merge(from.layers_[l]->sums);
      into.padded_length = std::max(into.padded_length, from.layers_[l]->padded_length);
    }
    if (!from.totals_[l]) continue;
    if (totals_[l] && !(*totals_[l] == *from.totals_[l])) {
      throw std::runtime_error("two summaries have attention of layer " + names_[l] +
                               ": merge the runs first (moetap merge)");
    }
    totals_[l] = from.totals_[l];
  }
}

void AttentionStudy::save(ByteSink& sink) const {
  sink.values(has_stats_);
  for (size_t l = 0; l < layers_.size(); ++l) {
    sink.integer(layers_[l].has_value());
    if (layers_[l]) {
      layers_[l]->sums.save(sink);
      sink.integer(layers_[l]->padded_length);
    }
    sink.integer(totals_[l].has_value());
    if (totals_[l]) totals_[l]->save(sink);
  }
}

void AttentionStudy::load(ByteSource& source) {
  has_stats_ = source.values<uint8_t>(layers_.size());
  for (size_t l = 0; l < layers_.size(); ++l) {
    layers_[l].reset();
    totals_[l].reset();
    if (source.integer() != 0) {
      LayerSums& layer = layer_sums(static_cast<int64_t>(l));
      layer.sums.load(source);
      layer.padded_length = source.integer();
      if (layer.padded_length < 0 || layer.padded_length > kMaxLength) ByteSource::refuse();
    }
    if (source.integer() != 0) totals_[l].emplace().load(source, num_experts(static_cast<int64_t>(l)));
  }
}

void AttentionStudy::add_notice_of_regions(Result& result) const {
  if (!is_notebook() && !options_.absolute_regions) return;
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (has_stats_[l] == 0 && !(totals_[l] && !layers_[l])) continue;
    result.notices.emplace_back(
        "the regions are parts of each sample's own length: statistics of attention have no others, --attention full "
        "has");
    return;
  }
}

std::string AttentionStudy::no_attention() const {
  for (int64_t l = 0; l < num_layers(); ++l) {
    if (has_stats_[static_cast<size_t>(l)] != 0 || totals(l)) {
      return "statistics of attention were seen, but no expert's value follows from them; --attention full has all "
             "rows";
    }
    if (sums(l)) return "attention was seen, but no token with a gate above 0";
  }
  return "no attention was seen";
}

void AttentionStudy::add_notices(Result& result) const {
  std::string missing;
  int64_t out_of_range = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (!layers_[l] && !totals_[l] && has_stats_[l] == 0) missing += (missing.empty() ? "" : ", ") + names_[l];
    if (layers_[l]) out_of_range += layers_[l]->sums.out_of_range();
  }
  if (!missing.empty()) result.notices.push_back("no attention goes with the routers of layers " + missing);
  if (out_of_range > 0) {
    result.notices.push_back(std::to_string(out_of_range) +
                             " values are infinite, NaN or beyond 6.7e7 and were left out");
  }
}

int64_t stats_column(const AttentionStats& stats, const std::string& name) {
  const auto found = std::find(stats.columns.begin(), stats.columns.end(), name);
  return found == stats.columns.end() ? -1 : found - stats.columns.begin();
}

}  // namespace moetap::analysis::studies
