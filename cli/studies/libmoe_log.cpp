#include "cli/studies/libmoe_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

using analysis::studies::LoggedEntry;
using analysis::studies::LoggedLayer;
using nlohmann::json;

double real_of(const json& layer, const char* key) {
  const auto found = layer.find(key);
  return found != layer.end() && found->is_number() ? found->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

template <typename Value>
std::vector<Value> list_of(const json& layer, const char* key) {
  std::vector<Value> values;
  const auto found = layer.find(key);
  if (found == layer.end() || !found->is_array()) return values;
  for (const json& value : *found) {
    if (!value.is_number()) throw std::runtime_error(fmt::format("{} holds something that is no number", key));
    if constexpr (std::is_integral_v<Value>) {
      const bool fits = value.is_number_integer() && value.get<int64_t>() <= std::numeric_limits<Value>::max() &&
                        value.get<int64_t>() >= std::numeric_limits<Value>::min();
      if (!fits) throw std::runtime_error(fmt::format("{} holds {}, which is no count or id", key, value.dump()));
    }
    values.push_back(value.get<Value>());
  }
  return values;
}

/// Layers are the values that are objects; `time_inference` stands beside them.
std::vector<LoggedLayer> layers_of(const json& layers) {
  std::vector<LoggedLayer> read;
  if (!layers.is_object()) return read;
  for (const auto& [id, layer] : layers.items()) {
    if (!layer.is_object() || layer.empty()) continue;
    LoggedLayer of;
    of.layer = id;
    of.entropy_topk = real_of(layer, "entropy_weight_topk");
    of.entropy_all = real_of(layer, "entropy_weight_all");
    of.diver_loss = real_of(layer, "diver_loss");
    of.dist_top1 = list_of<int64_t>(layer, "dist_experts_top1");
    of.dist_top2 = list_of<int64_t>(layer, "dist_experts_top2");
    of.margins = list_of<double>(layer, "router_magine");
    of.selected_experts = list_of<int32_t>(layer, "selected_experts");
    read.push_back(std::move(of));
  }
  return read;
}

/// The first object in lists of lists: LibMoE nests an entry's layers two lists deep, its guide one.
const json& innermost(const json& value) {
  const json* of = &value;
  while (of->is_array() && !of->empty()) of = &of->front();
  return *of;
}

}  // namespace

std::string LibMoeLog::task() const {
  return std::filesystem::path(path_).stem().string();
}

int64_t LibMoeLog::read(const std::function<void(const LoggedEntry&)>& use, const std::function<void()>& check) const {
  std::ifstream file(path_, std::ios::binary);
  if (!file) throw CommandError(fmt::format("{}: cannot be read", path_));
  int64_t num_entries = 0;
  const auto read_entry = [&](const json& json_entry) {
    LoggedEntry entry;
    entry.run = run_;
    entry.log = log_;
    entry.place = num_entries++;
    entry.task = task();
    const auto doc_id = json_entry.find("doc_id");
    entry.doc_id = doc_id != json_entry.end() && doc_id->is_number_integer() ? doc_id->get<int64_t>() : entry.place;
    const auto doc = json_entry.find("doc");
    if (doc != json_entry.end() && doc->is_object()) {
      const auto category = doc->find("category");
      if (category != doc->end() && category->is_string()) entry.category = category->get<std::string>();
    }
    const auto components = json_entry.find("logs_metrics_moe");
    if (components != json_entry.end() && innermost(*components).is_object()) {
      for (const auto& [component, layers] : innermost(*components).items()) {
        entry.component = component;
        entry.layers = layers_of(layers);
        if (!entry.layers.empty()) use(entry);
      }
      return;
    }
    const auto vision = json_entry.find("logs_metrics_vision");
    if (vision == json_entry.end()) return;
    entry.component = "vision";
    entry.layers = layers_of(innermost(*vision));
    if (!entry.layers.empty()) use(entry);
  };
  bool in_logs = false, has_logs = false;
  // The error of an entry must not look like an error of the JSON text.
  const auto stream = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      in_logs = parsed == "logs";
      has_logs = has_logs || in_logs;
    }
    if (!in_logs || event != json::parse_event_t::object_end || depth != 2) return true;
    check();
    read_entry(parsed);
    return false;  // it is not kept
  };
  try {
    [[maybe_unused]] const json rest = json::parse(file, stream);
  } catch (const json::exception&) {
    throw CommandError(fmt::format("{}: entry {}: is no JSON of LibMoE's evaluation (cut short?)", path_, num_entries));
  } catch (const CommandError&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw CommandError(fmt::format("{}: entry {}: {}", path_, num_entries - 1, error.what()));
  }
  if (!has_logs) throw CommandError(fmt::format("{}: is no log of LibMoE's evaluation: it has no \"logs\"", path_));
  return num_entries;
}

}  // namespace moetap::cli
