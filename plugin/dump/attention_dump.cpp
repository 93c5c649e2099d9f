#include "plugin/dump/attention_dump.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "plugin/dump/dump_keys.h"
#include "plugin/formats/json_text.h"
#include "plugin/records/attention_regions.h"

namespace moetap::plugin {

AttentionSeries::Metadata AttentionDump::metadata(const std::string& series, const LayerTable& layers,
                                                  const Config& config) {
  nlohmann::json hooks = nlohmann::json::object();
  for (const RunLayer& layer : layers.layers()) {
    if (layer.component + ".attention" == series) hooks[layer.layer] = layer.name;
  }
  return {{keys::kHooks.name, compact_text(hooks)},
          {keys::kRegions.name,
           compact_text(nlohmann::json(AttentionRegions::from_text(config.attention_regions).names()))}};
}

AttentionDump::ForwardMatrices AttentionDump::prepare(const ForwardRecord& record, const LayerTable& layers,
                                                      const Config& config) const {
  ForwardMatrices forward;
  for (const AttentionRecord& attention : record.attention) {
    if (attention.matrices.empty()) continue;
    const RunLayer& layer = layers.layers()[layers.at(record.model->instance, attention.hook)];
    ForwardMatrices::OfSeries& series = forward.series[layer.component + ".attention"];
    for (const AttentionMatrixRecord& matrix : attention.matrices) {
      const bool is_known = matrix.sample >= 0 && static_cast<size_t>(matrix.sample) < record.samples.size();
      const std::string sample = is_known ? std::to_string(record.samples[static_cast<size_t>(matrix.sample)])
                                          : fmt::format("-1.{}.{}", record.index, matrix.sequence);
      const std::string call = attention.call > 0 ? fmt::format("/{}", attention.call) : "";
      series.matrices.push_back({fmt::format("{}/{}/{}{}", layer.layer, sample, matrix.first_position, call),
                                 matrix.probabilities.to(at::kFloat).contiguous()});
    }
  }
  for (auto& [name, series] : forward.series) {
    series.metadata = metadata(name, layers, config);
    const auto known = series_.find(name);
    forward.num_matrices[name] =
        (known == series_.end() ? 0 : known->second.num_matrices()) + static_cast<int64_t>(series.matrices.size());
  }
  return forward;
}

void AttentionDump::add(const ForwardMatrices& forward) {
  for (const auto& [name, series] : forward.series) {
    for (const AttentionMatrix& matrix : series.matrices) bytes_ += static_cast<int64_t>(matrix.probabilities.nbytes());
    series_of(name).append(series.matrices, series.metadata);
  }
}

AttentionSeries& AttentionDump::series_of(const std::string& name) {
  const auto [known, is_new] = series_.try_emplace(
      name,
      AttentionSeries::Place{place_.dump_folder, place_.journal_folder, name, place_.rank, place_.max_shard_bytes});
  return known->second;
}

void AttentionDump::settle() {
  if (in_batch_) return;
  for (auto& [name, series] : series_) series.settle();
}

void AttentionDump::sync() {
  for (auto& [name, series] : series_) series.sync();
}

void AttentionDump::finish() {
  for (auto& [name, series] : series_) series.finish();
}

std::map<std::string, int64_t> AttentionDump::restore() {
  std::map<std::string, int64_t> matrices;
  for (const std::string& name : AttentionSeries::names_in(place_.dump_folder, place_.journal_folder)) {
    matrices[name] = series_of(name).restore();
  }
  return matrices;
}

int64_t AttentionDump::cut(const std::map<std::string, int64_t>& rows) {
  int64_t missing = 0;
  for (const auto& [name, number] : rows) {
    if (AttentionSeries::is_name(name)) missing += series_of(name).cut(number);
  }
  for (auto& [name, series] : series_) {
    if (!rows.contains(name)) series.cut(0);
  }
  return missing;
}

}  // namespace moetap::plugin
