#include "plugin/run/run_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "plugin/records/description_keys.h"
#include "plugin/records/layer_table.h"
#include "plugin/results/json_keys.h"
#include "plugin/run/run_paths.h"
#include "plugin/run/run_ranks.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kKnownManifest = 1;

[[noreturn]] void fail(const std::string& line) {
  throw std::runtime_error(line);
}

/// Leaves out the tables of pairs of experts, which are most of a summary and which no reader here needs.
bool keep_small(int, json::parse_event_t event, json& parsed) {
  return event != json::parse_event_t::key || !parsed.is_string() ||
         (parsed != "coactivation" && parsed != "transition" && parsed != "experts" && parsed != "pattern");
}

json read_json(const fs::path& path, const json::parser_callback_t& keep = nullptr) {
  std::ifstream file(path);
  if (!file) fail(fmt::format("{}: cannot be read; is the run whole?", path.string()));
  try {
    return json::parse(file, keep);
  } catch (const json::exception&) {
    fail(fmt::format("{}: is damaged: it is no JSON", path.string()));
  }
}

void add_counts(std::vector<int64_t>& sum, const json& values) {
  if (!values.is_array()) return;
  if (sum.size() < values.size()) sum.resize(values.size());
  for (size_t i = 0; i < values.size(); ++i) sum[i] += values[i].get<int64_t>();
}

std::string text_or_empty(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::optional<int64_t> count_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? std::optional(found->get<int64_t>()) : std::nullopt;
}

}  // namespace

RunReader::RunReader(const std::string& run_dir) : path_(run_dir) {
  std::error_code error;
  if (!fs::is_directory(path_, error)) {
    fail(path_ + ": " + (fs::exists(path_, error) ? "is no directory" : "there is no such directory") +
         "; name the directory of a run");
  }
  if (!fs::is_directory(fs::path(path_) / "moetap", error)) fail(path_ + ": holds no run of moetap");
  find_ranks();
  for (const int64_t rank : ranks_) read_manifest(rank);
  for (const int64_t rank : ranks_) read_summary(rank);
  for (auto& [component, layers] : components_) {
    std::sort(layers.begin(), layers.end(),
              [](const ReadLayer& a, const ReadLayer& b) { return layer_id_less(a.layer, b.layer); });
    for (ReadLayer& layer : layers) {
      if (layer.entropy_tokens > 0) layer.entropy /= static_cast<double>(layer.entropy_tokens);
    }
  }
}

std::string RunReader::samples_file() const {
  if (samples_files_.size() > 1) {
    fail(fmt::format(
        "{}: its ranks were recorded with different samples files (\"{}\"): which line is a sample's is not "
        "known",
        path_, fmt::join(samples_files_, "\", \"")));
  }
  return samples_files_.empty() ? "" : *samples_files_.begin();
}

void RunReader::find_ranks() {
  const RunRanks found = find_run_ranks(path_);
  ranks_ = found.done;
  if (!found.unfinished.empty()) {
    fail(
        fmt::format("{}: the run did not finish (rank{} has a journal); if no process writes it any more, complete it "
                    "with moetap recover {}",
                    path_, fmt::join(found.unfinished, ", rank"), path_));
  }
  if (ranks_.empty()) {
    fail(
        fmt::format("{}: the run is not marked as done (rank0_metric_eval_done.txt is missing); if its process died, "
                    "complete it with moetap recover {}",
                    path_, path_));
  }
}

void RunReader::read_manifest(int64_t rank) {
  const fs::path path = RunPaths(path_, rank).about / "manifest.json";
  const json manifest = read_json(path);
  const int64_t version = count_of(manifest, keys::kSchemaVersion.name).value_or(0);
  if (version != kKnownManifest) {
    fail(fmt::format("{}: has schema_version {}, this moetap reads {}", path.string(), version, kKnownManifest));
  }
  if (rank == ranks_.front()) {
    model_file_ = text_or_empty(manifest, keys::kModel.name);
    sha256_ = text_or_empty(manifest, keys::kSha256.name);
    config_ = manifest.value(keys::kConfig.name, json::object());
    moetap_version_ = text_or_empty(manifest.value(keys::kVersions.name, json::object()), keys::kMoetap.name);
    const int64_t world_size = count_of(manifest, keys::kWorldSize.name).value_or(1);
    std::vector<int64_t> missing;
    for (int64_t other = 0; other < world_size; ++other) {
      if (!std::binary_search(ranks_.begin(), ranks_.end(), other)) missing.push_back(other);
    }
    if (!missing.empty()) {
      fail(fmt::format("{}: rank {} of {} did not finish; if its process died, complete it with moetap recover {}",
                       path_, fmt::join(missing, ", "), world_size, path_));
    }
  }
  samples_files_.insert(text_or_empty(manifest.value(keys::kConfig.name, json::object()), "samples"));
  const auto add_hooks = [&](const json& hooks) {
    for (const json& hook : hooks) {
      const std::string run_layer = text_or_empty(hook, keys::kRunLayer.name);
      if (text_or_empty(hook, keys::kKind.name) != "router" || run_layer.empty()) continue;
      const std::string component = text_or_empty(hook, keys::kComponent.name);
      std::vector<ReadLayer>& layers = components_[component];
      auto known =
          std::find_if(layers.begin(), layers.end(), [&](const ReadLayer& layer) { return layer.layer == run_layer; });
      if (known == layers.end()) {
        ReadLayer layer;
        layer.component = component;
        layer.layer = run_layer;
        layer.name = text_or_empty(hook, keys::kName.name);
        layer.scoring = text_or_empty(hook, keys::kScoring.name);
        known = layers.insert(layers.end(), std::move(layer));
      }
      if (known->num_experts == 0) known->num_experts = count_of(hook, keys::kNumExperts.name).value_or(0);
      known->null_experts = std::max(known->null_experts, count_of(hook, keys::kNullExperts.name).value_or(0));
      if (!known->top_k) known->top_k = count_of(hook, keys::kTopK.name);
    }
  };
  add_hooks(manifest.value(keys::kHooks.name, json::array()));
  for (const json& model : manifest.value(keys::kOtherModels.name, json::array())) {
    add_hooks(model.value(keys::kHooks.name, json::array()));
  }
}

void RunReader::read_summary(int64_t rank) {
  const json summary = read_json(RunPaths(path_, rank).about / "summary.json", keep_small);
  const json components = summary.value(keys::kComponents.name, json::object());
  for (auto& [component, layers] : components_) {
    if (!components.contains(component)) continue;
    for (ReadLayer& layer : layers) {
      const auto found = components[component].find(layer.layer);
      if (found == components[component].end()) continue;
      if (layer.num_experts == 0) layer.num_experts = count_of(*found, keys::kNumExperts.name).value_or(0);
      add_counts(layer.selected, found->value("selected_count", json()));
      add_counts(layer.top1, found->value("top1_count", json()));
      const int64_t tokens = count_of(*found, keys::kTokens.name).value_or(0);
      const auto entropy = found->find("entropy_all");
      if (entropy != found->end() && entropy->is_number()) {
        layer.entropy += entropy->get<double>() * static_cast<double>(tokens);
        layer.entropy_tokens += tokens;
      }
      layer.tokens += tokens;
    }
  }
}

std::string RunReader::config_text(const std::string& key) const {
  return text_or_empty(config_, key.c_str());
}

std::string RunReader::dump_folder(int64_t rank) const {
  return RunPaths(path_, rank).dump.string();
}

std::string RunReader::log_folder(int64_t rank) const {
  return RunPaths(path_, rank).log.string();
}

std::string RunReader::main_component() const {
  const std::string configured = config_text("log_component");
  for (const std::string& name :
       {configured, std::string("vision_tower"), std::string("language_model"), std::string("decoder")}) {
    if (components_.contains(name)) return name;
  }
  return components_.empty() ? "" : components_.begin()->first;
}

}  // namespace moetap::plugin
