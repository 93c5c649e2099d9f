#include "cli/report/probe_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "cli/report/size_budget.h"
#include "plugin/formats/safetensors.h"
#include "plugin/run/run_paths.h"

namespace moetap::cli {

nlohmann::ordered_json probe_data(const plugin::RunReader& run, std::string& note) {
  using nlohmann::ordered_json;
  constexpr size_t kMostLayers = 10;
  constexpr int64_t kMostTokens = 50, kMostExperts = 64;
  const auto path = plugin::RunPaths(run.path(), run.ranks().front()).about / "probe.safetensors";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return nullptr;
  const plugin::SafetensorsFile file = plugin::read_safetensors(path.string());
  ordered_json data = ordered_json::object();
  int64_t shown_tokens = 0, shown_experts = 0;
  bool cut = false;
  for (const auto& [component, layers] : run.components()) {
    std::vector<const plugin::ReadLayer*> known;
    for (const plugin::ReadLayer& layer : layers) {
      if (file.tensors.contains(component + "." + layer.layer)) known.push_back(&layer);
    }
    ordered_json list = ordered_json::array();
    const size_t step = std::max<size_t>(1, known.size() / kMostLayers);
    for (size_t i = 0; i < known.size() && list.size() < kMostLayers; i += step) {
      const at::Tensor probability = file.tensors.at(component + "." + known[i]->layer);
      if (probability.dim() != 2 || probability.scalar_type() != at::kFloat || probability.numel() == 0) continue;
      const int64_t tokens = std::min(kMostTokens, probability.size(0)),
                    experts = std::min(kMostExperts, probability.size(1));
      cut = cut || tokens < probability.size(0) || experts < probability.size(1);
      ordered_json rows = ordered_json::array();
      for (int64_t t = 0; t < tokens; ++t) {
        const float* row = probability.const_data_ptr<float>() + t * probability.size(1);
        rows.push_back(std::vector<double>(row, row + experts));
      }
      round_reals(rows, 5);
      shown_tokens = std::max(shown_tokens, tokens);
      shown_experts = std::max(shown_experts, experts);
      list.push_back({{"layer", known[i]->layer}, {"probability", std::move(rows)}});
    }
    cut = cut || list.size() < known.size();
    if (!list.empty()) data[component] = std::move(list);
  }
  if (data.empty()) return nullptr;
  note = fmt::format(
      "Probabilities to 5 digits{}",
      cut ? fmt::format("; the first {} tokens and {} experts, and 10 layers at most.", shown_tokens, shown_experts)
          : ".");
  return data;
}

}  // namespace moetap::cli
