#include <fmt/format.h>

#include "cli/exports/export_format.h"
#include "cli/exports/npy_file.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {

void export_eplb(const ExportJob& job) {
  const std::string component = chosen_component(job);
  const std::vector<plugin::ReadLayer>& layers = job.run().components().at(component);
  const size_t num_experts = layers.front().selected.size();
  std::string names;
  int64_t tokens = 0;
  for (const plugin::ReadLayer& layer : layers) {
    if (layer.selected.size() != num_experts) {
      throw CommandError(
          fmt::format("{}: layer {} has {} experts, layer {} has {}: a load [layers, experts] needs the "
                      "same number in all",
                      job.run().path(), layers.front().layer, num_experts, layer.layer, layer.selected.size()));
    }
    names += (names.empty() ? "" : ", ") + layer.layer;
    tokens += layer.tokens;
  }
  if (tokens == 0) throw CommandError(fmt::format("{}: the run is empty: no router saw a token", job.run().path()));
  const auto row_bytes = static_cast<int64_t>(num_experts * sizeof(int64_t));
  NpyFile file(job.output, "<i8", {static_cast<int64_t>(layers.size()), static_cast<int64_t>(num_experts)});
  for (size_t i = 0; i < layers.size(); ++i) {
    file.write(static_cast<int64_t>(i) * row_bytes, layers[i].selected.data(), row_bytes);
  }
  file.close();
  job.results.push_back(fmt::format("{}: rows are layers {}", component, names));
}

}  // namespace moetap::cli
