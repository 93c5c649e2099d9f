#include "cli/studies/analyze_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <set>
#include <stdexcept>

#include "cli/studies/token_texts.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;

/// Calls use(name, member) for each option: one list for both directions.
template <typename Options, typename Use>
void for_options(Options& options, const Use& use) {
  use("only", options.only);
  use("component", options.component);
  use("definitions", options.definitions);
  use("gate", options.gate);
  use("layer", options.layer);
  use("group_by", options.group_by);
  use("samples", options.samples_file);
  use("tokenizer", options.tokenizer);
  use("alphabet", options.alphabet);
  use("placement", options.placement);
  use("positive", options.positive);
  use("negative", options.negative);
  use("model", options.models);
  use("matrices", options.matrices);
  use("top_k", options.top_k);
  use("experts", options.num_experts);
  use("sample", options.study.sample);
  use("max_length", options.study.max_length);
  use("absolute_regions", options.study.absolute_regions);
  use("regions", options.study.regions);
  use("top", options.study.top);
  use("threshold", options.study.threshold);
  use("link_share", options.study.link_share);
  use("token_range", options.study.token_range);
  use("phase", options.study.phase);
  use("warm", options.study.warm);
  use("cache_phase", options.study.cache_phase);
  use("draws", options.study.draws);
  use("seed", options.study.seed);
  use("delta_max", options.study.delta_max);
  use("periods", options.study.periods);
  use("notebook_padding", options.study.notebook_padding);
}

void check_range(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  throw std::runtime_error(fmt::format("its option {} is {}, which is not in {} to {}", name, value, least, most));
}

/// The bounds of the command line.
void check_ranges(const AnalyzeOptions& options) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const studies::StudyOptions& study = options.study;
  check_range("top_k", options.top_k, 0, 1 << 20);
  check_range("experts", options.num_experts, 0, 1 << 20);
  check_range("max_length", study.max_length, 0, kMost);
  check_range("regions", study.regions, 1, studies::kMaxRegions);
  check_range("top", study.top, 0, kMost);
  check_range("draws", study.draws, 1, studies::kMaxDraws);
  check_range("delta_max", study.delta_max, 1, studies::kMaxDelta);
  for (const int64_t period : study.periods) check_range("periods", period, 1, studies::kMaxDelta);
  if (options.definitions != "recommended" && !options.is_notebook()) {
    throw std::runtime_error(fmt::format("its option definitions is \"{}\"", options.definitions));
  }
}

std::map<std::string, std::vector<int32_t>> read_placement(const std::string& path,
                                                           const studies::ComponentShape& shape) {
  std::ifstream file(path);
  if (!file) throw CommandError(fmt::format("--placement: {} cannot be read", path));
  const auto json = ordered_json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object())
    throw CommandError(fmt::format("--placement: {}: must be a JSON object, layer -> [E] GPUs", path));
  std::map<std::string, std::vector<int32_t>> placement;
  for (const auto& [layer, gpus] : json.items()) {
    const auto known = std::find_if(shape.layers.begin(), shape.layers.end(),
                                    [&, &id = layer](const studies::LayerShape& of) { return of.id == id; });
    if (known == shape.layers.end()) continue;  // of another component
    const bool fits = gpus.is_array() && static_cast<int64_t>(gpus.size()) == known->num_experts &&
                      std::all_of(gpus.begin(), gpus.end(), [](const ordered_json& gpu) {
                        return gpu.is_number_integer() && gpu.get<int64_t>() >= 0 && gpu.get<int64_t>() < (1 << 16);
                      });
    if (!fits) {
      throw CommandError(fmt::format("--placement: {}: layer {} must be a list of {} numbers of GPUs, from 0", path,
                                     layer, known->num_experts));
    }
    placement[layer] = gpus.get<std::vector<int32_t>>();
  }
  if (placement.empty()) {
    throw CommandError(fmt::format("--placement: {}: names no layer of {}", path, shape.name));
  }
  return placement;
}

}  // namespace

ordered_json to_json(const AnalyzeOptions& options) {
  ordered_json json = ordered_json::object();
  const AnalyzeOptions defaults;
  ordered_json of_defaults = ordered_json::object();
  for_options(defaults, [&](const char* name, const auto& value) { of_defaults[name] = value; });
  for_options(options, [&](const char* name, const auto& value) {
    if (ordered_json(value) != of_defaults[name]) json[name] = value;
  });
  return json;
}

AnalyzeOptions analyze_options_from_json(const ordered_json& json) {
  AnalyzeOptions options;
  for_options(options, [&](const char* name, auto& value) {
    if (json.contains(name)) json.at(name).get_to(value);
  });
  check_ranges(options);
  return options;
}

studies::StudyOptions study_options(const AnalyzeOptions& options, const studies::ComponentShape& shape) {
  studies::StudyOptions study = options.study;
  study.definitions = options.is_notebook() ? studies::Definitions::kNotebook : studies::Definitions::kRecommended;
  study.group_by = options.group_by;
  study.matrices = options.matrices;
  if (!options.layer.empty()) {
    std::vector<std::string> ids;
    for (const studies::LayerShape& layer : shape.layers) ids.push_back(layer.id);
    const auto found = std::find(ids.begin(), ids.end(), options.layer);
    if (found == ids.end()) {
      throw CommandError(
          fmt::format("--layer: {} has no layer \"{}\"; it has {}", shape.name, options.layer, fmt::join(ids, ", ")));
    }
    study.layer = found - ids.begin();
  }
  if (!options.placement.empty()) study.placement = read_placement(options.placement, shape);
  if (!options.tokenizer.empty()) {
    study.token_text = token_texts_of_tokenizer(options.tokenizer);
  } else if (!options.alphabet.empty()) {
    study.token_text = token_texts_of_alphabet(options.alphabet);
  }
  return study;
}

ordered_json to_json(const studies::ComponentShape& shape) {
  ordered_json layers = ordered_json::array();
  for (const studies::LayerShape& layer : shape.layers) {
    layers.push_back({layer.id, layer.name, layer.num_experts, layer.null_experts, layer.top_k, layer.scoring});
  }
  return {{"name", shape.name}, {"layers", layers}, {"groups", shape.groups}, {"padded_length", shape.padded_length}};
}

studies::ComponentShape shape_from_json(const ordered_json& json) {
  studies::ComponentShape shape;
  json.at("name").get_to(shape.name);
  json.at("groups").get_to(shape.groups);
  json.at("padded_length").get_to(shape.padded_length);
  for (const ordered_json& of : json.at("layers")) {
    studies::LayerShape layer;
    of.at(0).get_to(layer.id);
    of.at(1).get_to(layer.name);
    of.at(2).get_to(layer.num_experts);
    of.at(3).get_to(layer.null_experts);
    of.at(4).get_to(layer.top_k);
    of.at(5).get_to(layer.scoring);
    // Studies allocate by these: no more than a model can have.
    if (layer.num_experts < 1 || layer.num_experts > (1 << 20) || layer.top_k < 0 || layer.top_k > (1 << 20)) {
      throw std::runtime_error("a layer has a number of experts that no model has");
    }
    shape.layers.push_back(std::move(layer));
  }
  return shape;
}

}  // namespace moetap::cli
