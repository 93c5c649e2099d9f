#include "cli/report/probe_data.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "cli/report/size_budget.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/safetensors.h"
#include "plugin/run/run_paths.h"

namespace moetap::cli {

namespace {

using nlohmann::ordered_json;

struct NamedScale {
  const char* name;
  const char* colors;
};
// The first is MiniMax-M2's; the others are Matplotlib's, at equal steps.
constexpr NamedScale kScales[] = {
    {"minimax", "#19448e,#4a6fa5,#7d8db8,#c49fbb,#f4b3c2"}, {"viridis", "#440154,#3b528b,#21918c,#5ec962,#fde725"},
    {"cividis", "#00224e,#414d6b,#7d7c78,#bcaf6f,#fee838"}, {"plasma", "#0d0887,#7e03a8,#cc4778,#f89540,#f0f921"},
    {"inferno", "#000004,#57106e,#bc3754,#f98e09,#fcffa4"}, {"magma", "#000004,#51127c,#b73779,#fc8961,#fcfdbf"},
    {"greys", "#ffffff,#bfbfbf,#808080,#404040,#000000"},
};

bool is_color(const std::string& text) {
  return text.size() == 7 && text[0] == '#' &&
         std::all_of(text.begin() + 1, text.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
}

/// The rows of a layer, [tokens][experts]; null where the tensor is of another kind.
ordered_json rows_of(const at::Tensor& probability, int64_t tokens, int64_t experts) {
  ordered_json rows = ordered_json::array();
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = probability.const_data_ptr<float>() + t * probability.size(1);
    rows.push_back(std::vector<double>(row, row + experts));
  }
  constexpr int kDigits = 5;
  round_reals(rows, kDigits);
  return rows;
}

}  // namespace

std::vector<std::string> parse_colorscale(const std::string& text) {
  std::string colors = text;
  std::vector<std::string> names;
  for (const NamedScale& scale : kScales) {
    names.emplace_back(scale.name);
    const auto same = [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); };
    if (std::equal(text.begin(), text.end(), names.back().begin(), names.back().end(), same)) colors = scale.colors;
  }
  std::vector<std::string> parsed;
  for (size_t begin = 0; begin <= colors.size();) {
    const size_t end = std::min(colors.find(',', begin), colors.size());
    parsed.push_back(colors.substr(begin, end - begin));
    begin = end + 1;
  }
  if (parsed.size() < 2 || !std::all_of(parsed.begin(), parsed.end(), is_color)) {
    throw CommandError(fmt::format("--colorscale: \"{}\" is neither two or more of #rrggbb with commas nor one of {}",
                                   text, fmt::join(names, ", ")),
                       kExitUsage);
  }
  return parsed;
}

ordered_json probe_data(const plugin::RunReader& run, const SurfaceOptions& options, std::string& note) {
  constexpr int64_t kMostValues = 50'000, kFewLayers = 4;
  const auto path = plugin::RunPaths(run.path(), run.ranks().front()).about / "probe.safetensors";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return nullptr;
  const plugin::SafetensorsFile file = plugin::read_safetensors(path.string());
  ordered_json data = ordered_json::object();
  int64_t shown_tokens = 0, shown_experts = 0;
  size_t shown_layers = 0, all_layers = 0;
  bool cut = false;
  for (const auto& [component, layers] : run.components()) {
    std::vector<std::pair<std::string, at::Tensor>> known;
    for (const plugin::ReadLayer& layer : layers) {
      const auto found = file.tensors.find(component + "." + layer.layer);
      if (found == file.tensors.end()) continue;
      const at::Tensor& probability = found->second;
      if (probability.dim() == 2 && probability.scalar_type() == at::kFloat && probability.numel() > 0)
        known.emplace_back(layer.layer, probability);
    }
    if (known.empty()) continue;
    const auto sizes = [&](const at::Tensor& probability) {
      return std::pair(std::min(options.max_tokens, probability.size(0)),
                       std::min(options.max_experts, probability.size(1)));
    };
    const auto [some_tokens, some_experts] = sizes(known.front().second);
    const auto count = static_cast<int64_t>(known.size());
    const int64_t room = std::max(kMostValues / (some_tokens * some_experts), kFewLayers);
    const int64_t most = std::min(options.max_layers, room), step = std::max<int64_t>(1, count / most);
    ordered_json list = ordered_json::array();
    for (int64_t i = 0; i < count && static_cast<int64_t>(list.size()) < most; i += step) {
      const auto& [layer, probability] = known[static_cast<size_t>(i)];
      const auto [tokens, experts] = sizes(probability);
      cut = cut || tokens < probability.size(0) || experts < probability.size(1);
      shown_tokens = std::max(shown_tokens, tokens);
      shown_experts = std::max(shown_experts, experts);
      list.push_back({{"layer", layer}, {"probability", rows_of(probability, tokens, experts)}});
    }
    shown_layers += list.size();
    all_layers += known.size();
    data[component] = std::move(list);
  }
  if (data.empty()) return nullptr;
  note = "Probabilities to 5 digits.";
  if (cut || shown_layers < all_layers) {
    note = fmt::format(
        "Probabilities to 5 digits; {} of {} layers, the first {} tokens and {} experts (--max-layers, "
        "--max-tokens, --max-experts).",
        shown_layers, all_layers, shown_tokens, shown_experts);
  }
  return data;
}

}  // namespace moetap::cli
