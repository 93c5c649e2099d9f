#include "cli/exports/export_format.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "cli/terminal/command_error.h"
#include "plugin/run/run_dump.h"

namespace moetap::cli {

const std::vector<ExportFormat>& export_formats() {
  static const std::vector<ExportFormat> formats{
      {"npy", "folder: gate_scores, topk_idx, attn_weights, token_types, for NumPy and the notebook",
       OutputKind::kFolder, true, false, export_npy},
      {"parquet", "folder: Parquet by component and layer, for DuckDB, Polars, Spark", OutputKind::kFolder, true, false,
       export_parquet},
      {"flame", "folder: a Parquet file a layer, as FLAME-MoE's traces", OutputKind::kFolder, true, false,
       export_flame},
      {"r3", "folder: ids [S, L, K] a sample, as vLLM and SGLang return routed experts", OutputKind::kFolder, true,
       false, export_r3},
      {"eplb", "file: load [layers, experts], for expert-parallel load balancers", OutputKind::kFile, false, false,
       export_eplb},
      {"libmoe", "folder of LibMoE's evaluation with the log in it", OutputKind::kFolder, true, false, export_libmoe},
      {"easysteer", "file: JSON as EasySteer's analyze_expert_usage gives it", OutputKind::kFile, true, false,
       export_easysteer},
      {"training-log", "folder: training_log.txt and router_affinity_matrix.csv; an epoch is a run",
       OutputKind::kFolder, false, true, export_training_log},
  };
  return formats;
}

namespace {

std::vector<std::string> components_with_routers(const ExportJob& job) {
  std::vector<std::string> names;
  for (const auto& [name, layers] : job.run().components()) names.push_back(name);
  if (names.empty()) throw CommandError(fmt::format("{}: no router reported in this run", job.run().path()));
  if (job.options.component.empty()) return names;
  if (std::find(names.begin(), names.end(), job.options.component) == names.end()) {
    throw CommandError(fmt::format("--component: {} has no routers in \"{}\"; it has some in {}", job.run().path(),
                                   job.options.component, fmt::join(names, ", ")));
  }
  return {job.options.component};
}

}  // namespace

std::vector<std::string> chosen_components(const ExportJob& job) {
  const std::vector<std::string> names = components_with_routers(job);
  std::vector<std::string> dumped;
  for (const std::string& name : names) {
    if (plugin::has_dump(job.run(), name)) dumped.push_back(name);
  }
  if (dumped.empty()) return names;  // opening them says why
  for (const std::string& name : names) {
    if (!plugin::has_dump(job.run(), name))
      job.notices.push_back(fmt::format("{} is left out: the dump holds no tokens of it", name));
  }
  return dumped;
}

std::string chosen_component(const ExportJob& job) {
  const std::vector<std::string> names = components_with_routers(job);
  if (names.size() == 1) return names.front();
  throw CommandError(
      fmt::format("{}: has routers in {}; choose one with --component", job.run().path(), fmt::join(names, ", ")));
}

plugin::ComponentReader open_component(const ExportJob& job, const std::string& component) {
  const plugin::RunReader& run = job.run();
  plugin::ComponentReader::Source source{component, {}, job.scratch_folder, job.check};
  bool any = false;
  for (const int64_t rank : run.ranks()) {
    source.folders.emplace_back(rank, run.dump_folder(rank));
    std::error_code error;
    any = any || std::filesystem::is_directory(source.folders.back().second, error);
  }
  const std::string dump = run.config_text("dump");
  if (!any || dump == "none") {
    const bool recorded = !dump.empty() && dump != "none";
    throw CommandError(fmt::format("{}: {}", run.path(),
                                   recorded ? "its dump holds no tokens: the run is empty, or its dump was removed"
                                            : "the run has no dump; record it with --dump topk (ids and weights) or "
                                              "--dump full (scores, too)"));
  }
  plugin::ComponentReader reader(std::move(source));
  job.notices.insert(job.notices.end(), reader.damage().begin(), reader.damage().end());
  if (reader.num_tokens() == 0) {
    throw CommandError(fmt::format("{}: the dump holds no tokens of {}{}", run.path(), component,
                                   reader.damage().empty() ? "" : " that can be read: " + reader.damage().front()));
  }
  return reader;
}

std::vector<plugin::ReadLayer> layers_with(const ExportJob& job, const plugin::ComponentReader& reader,
                                           const std::string& component, const char* column) {
  std::vector<plugin::ReadLayer> layers;
  for (const plugin::ReadLayer& layer : job.run().components().at(component)) {
    if (!reader.has_layer(layer.layer)) continue;
    if (!reader.has_column(layer.layer, column)) {
      const bool full = std::strcmp(column, "logits") == 0 || std::strcmp(column, "scores") == 0;
      throw CommandError(fmt::format("{}: the dump of layer {} has no {}; this export needs a run with --dump {}",
                                     job.run().path(), layer.layer, column, full ? "full" : "topk"));
    }
    layers.push_back(layer);
  }
  if (layers.empty()) throw CommandError(fmt::format("{}: the dump holds no layer of {}", job.run().path(), component));
  return layers;
}

int64_t drop_foreign_ids(const plugin::ReadLayer& layer, int32_t* ids, int64_t n) {
  if (layer.num_experts <= 0) return 0;
  const int64_t end = layer.num_experts + layer.null_experts;
  int64_t dropped = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] >= -1 && ids[i] < end) continue;
    ids[i] = -1;
    ++dropped;
  }
  return dropped;
}

void softmax_rows(float* values, int64_t n, int64_t width) {
  for (int64_t i = 0; i < n; ++i) {
    float* row = values + i * width;
    const float largest = *std::max_element(row, row + width);
    double sum = 0;
    for (int64_t e = 0; e < width; ++e) sum += std::exp(static_cast<double>(row[e] - largest));
    for (int64_t e = 0; e < width; ++e) {
      row[e] = static_cast<float>(std::exp(static_cast<double>(row[e] - largest)) / sum);
    }
  }
}

}  // namespace moetap::cli
