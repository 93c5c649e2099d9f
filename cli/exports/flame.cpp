#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "cli/exports/export_format.h"
#include "cli/exports/parquet_file.h"

namespace moetap::cli {
namespace {

constexpr int64_t kGroupRows = 122880;

void export_layer(const ExportJob& job, const plugin::ComponentReader& reader, const plugin::ReadLayer& layer,
                  const std::string& folder, int64_t& foreign) {
  const int64_t top_k = reader.width(layer.layer, "selected");
  ParquetFile file(
      fmt::format("{}/layer-{}.parquet", folder, layer.layer),
      {{"scores", ParquetType::kHalfList}, {"indices", ParquetType::kIdList16}, {"token_id", ParquetType::kInt32}},
      {{"schema_version", "1"},
       {"component", layer.component},
       {"layer", layer.layer},
       {"hook_name", layer.name},
       {"num_experts", std::to_string(layer.num_experts)},
       {"model_sha256", job.run().sha256()}});
  const int64_t num_rows = reader.num_rows(layer.layer);
  for (int64_t first = 0; first < num_rows; first += kGroupRows) {
    job.check();
    const int64_t n = std::min(kGroupRows, num_rows - first);
    std::vector<float> weights(static_cast<size_t>(n * top_k));
    std::vector<int32_t> ids(static_cast<size_t>(n * top_k));
    reader.read_row_reals(layer.layer, "weights", first, n, top_k, weights.data());
    reader.read_row_ids(layer.layer, first, n, top_k, ids.data());
    foreign += drop_foreign_ids(layer, ids.data(), n * top_k);
    std::vector<plugin::TokenLabel> labels(static_cast<size_t>(n));
    reader.read_row_labels(layer.layer, first, n, labels.data());
    std::vector<int32_t> token_ids;
    for (const plugin::TokenLabel& label : labels) token_ids.push_back(label.token_id);
    file.begin_group();
    file.write_lists(weights, top_k);
    file.write_lists(ids, top_k);
    file.write(token_ids);
  }
  file.close();
}

}  // namespace

void export_flame(const ExportJob& job) {
  const std::vector<std::string> components = chosen_components(job);
  for (const std::string& component : components) {
    const std::string folder = components.size() == 1 ? job.output : job.output + "/" + component;
    std::filesystem::create_directories(folder);
    const plugin::ComponentReader reader = open_component(job, component);
    int64_t foreign = 0;
    const std::vector<plugin::ReadLayer> layers = layers_with(job, reader, component, "weights");
    for (const plugin::ReadLayer& layer : layers) export_layer(job, reader, layer, folder, foreign);
    if (foreign > 0) {
      job.notices.push_back(
          fmt::format("{} ids of {} are no experts of their layer (a damaged shard?): -1", foreign, component));
    }
    job.results.push_back(fmt::format("{}: {} tokens, {} layers", component, reader.num_tokens(), layers.size()));
  }
}

}  // namespace moetap::cli
