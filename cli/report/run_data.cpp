#include "cli/report/run_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>

#include "cli/report/pair_cells.h"
#include "cli/report/size_budget.h"
#include "cli/terminal/command_error.h"
#include "plugin/run/run_paths.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kBytesACell = 5;  // a count and its comma, about

struct Pairs {
  const char* key;
  PairKind kind;
};
constexpr Pairs kPairs[] = {{"coactivation", PairKind::kSymmetric}, {"transition", PairKind::kDirected}};

/// The JSON is not of the shape that a summary has.
struct NotASummary : std::exception {};

/// {layer: object} -> [object with its layer]
ordered_json as_list(const ordered_json& layers) {
  ordered_json list = ordered_json::array();
  if (!layers.is_object()) throw NotASummary();
  for (const auto& [id, values] : layers.items()) {
    if (!values.is_object()) throw NotASummary();
    ordered_json layer = {{"layer", id}};
    for (const auto& [key, value] : values.items()) layer[key] = value;
    list.push_back(std::move(layer));
  }
  return list;
}

ordered_json component_lists(const ordered_json& components) {
  ordered_json lists = ordered_json::object();
  if (!components.is_object()) throw NotASummary();
  for (const auto& [name, layers] : components.items()) lists[name] = as_list(layers);
  return lists;
}

int64_t reals_in(const ordered_json& value) {
  if (value.is_number_float()) return 1;
  int64_t count = 0;
  if (value.is_structured()) {
    for (const auto& one : value) count += reals_in(one);
  }
  return count;
}

void drop_derived(ordered_json& components) {
  for (auto& layers : components) {
    for (auto& layer : layers) {
      layer.erase("usage");
      layer.erase("load_ratio");
      const auto zeros = layer.find("zero_weight_count");
      if (zeros == layer.end() || !zeros->is_array()) continue;
      if (std::all_of(zeros->begin(), zeros->end(), [](const auto& count) { return count == 0; })) layer.erase(zeros);
    }
  }
}

/// What the run itself says went wrong: {sentence: true}.
ordered_json warnings_of(const ordered_json& manifest) {
  struct Counted {
    const char* key;
    const char* text;
  };
  constexpr Counted kCounted[] = {{"dropped", "forwards were not recorded: the queue was full"},
                                  {"unwritten", "forwards were not written"},
                                  {"aborted", "forwards ended half-way and are not counted"},
                                  {"failed_hooks", "hooks failed and stopped recording"},
                                  {"out_of_range", "values were infinite, NaN or too large and are left out"}};
  ordered_json warnings = ordered_json::object();
  const ordered_json counters = manifest.value("counters", ordered_json::object());
  for (const Counted& counted : kCounted) {
    const int64_t count =
        counters.is_object() && counters.contains(counted.key) && counters[counted.key].is_number_integer()
            ? counters[counted.key].get<int64_t>()
            : 0;
    if (count > 0) warnings[fmt::format("{} {}.", count, counted.text)] = true;
  }
  for (const auto& line : manifest.value("missing", ordered_json::array())) {
    if (line.is_string()) warnings[line.get<std::string>()] = true;
  }
  const ordered_json lost = manifest.value("lost", ordered_json::object());
  const int64_t forwards = lost.value("forwards", int64_t{0}), rows = lost.value("dump_rows", int64_t{0});
  if (forwards > 0 || rows > 0) {
    warnings[fmt::format("Recovered from a process that died: at least {} forwards and {} rows of the dump were lost.",
                         forwards, rows)] = true;
  }
  for (const auto& hook : manifest.value("hooks", ordered_json::array())) {
    if (!hook.contains("unverified")) continue;
    for (const auto& [column, reason] : hook["unverified"].items()) {
      warnings[fmt::format("{} of {} did not fit and are withheld: {}", column, hook.value("name", ""),
                           reason.is_string() ? reason.get<std::string>() : reason.dump())] = true;
    }
  }
  return warnings;
}

}  // namespace

std::string folder_name(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  if (folder.filename() == "." || folder.filename() == "..") {
    std::error_code error;
    folder = std::filesystem::weakly_canonical(path, error);
    if (!folder.has_filename()) folder = folder.parent_path();
  }
  return folder.filename().string();
}

ordered_json read_json_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw CommandError(path + ": cannot be read");
  ordered_json json = ordered_json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) throw CommandError(path + ": is damaged: it is no JSON object");
  return json;
}

int64_t bytes_of_pairs(const ordered_json& run) {
  int64_t bytes = 0;
  for (const auto& layers : run["components"]) {
    for (const auto& layer : layers) {
      for (const Pairs& pairs : kPairs) {
        for (const std::string& key : {std::string(pairs.key), std::string(pairs.key) + "_cells"})
          bytes += layer.contains(key) ? json_bytes(layer[key]) : 0;
      }
    }
  }
  return bytes;
}

void cut_pairs(ordered_json& run, int64_t most_bytes) {
  ordered_json& components = run["components"];
  int64_t cells = 0, matrices = 0;
  for (const auto& layers : components) {
    for (const auto& layer : layers) {
      for (const Pairs& pairs : kPairs) {
        const int64_t own = layer.contains(pairs.key) ? num_cells(layer[pairs.key]) : 0;
        cells += own;
        matrices += own > 0 ? 1 : 0;
      }
    }
  }
  if (matrices == 0 || cells * kBytesACell <= most_bytes) return;
  // A kept cell is two places and a count; of a symmetric matrix it stands twice.
  const int64_t most = std::clamp<int64_t>(most_bytes / matrices / 22, 16, 2000);
  for (auto& layers : components) {
    for (auto& layer : layers) {
      for (const Pairs& pairs : kPairs) {
        if (!layer.contains(pairs.key) || num_cells(layer[pairs.key]) == 0) continue;
        layer[std::string(pairs.key) + "_cells"] = largest_cells(layer[pairs.key], pairs.kind, most);
        layer[pairs.key] = nullptr;
      }
    }
  }
}

ordered_json run_data(const plugin::RunReader& run, const std::string& label) {
  const plugin::RunPaths paths(run.path(), run.ranks().front());
  ordered_json summary = read_json_file((paths.about / "summary.json").string());
  const ordered_json manifest = read_json_file((paths.about / "manifest.json").string());
  try {
    ordered_json data = {{"label", label},
                         {"model", std::filesystem::path(run.model_file()).filename().string()},
                         {"sha256", run.sha256()},
                         {"task", run.task()},
                         {"device", manifest.value("device", ordered_json(nullptr))},
                         {"forwards", summary.value("forwards", ordered_json(nullptr))}};
    data["components"] = component_lists(summary["components"]);
    drop_derived(data["components"]);
    data["attention"] = component_lists(summary.value("attention", ordered_json::object()));
    data["phases"] = ordered_json::object();
    const ordered_json phases = summary.value("phases", ordered_json::object());
    for (const auto& [name, phase] : phases.items()) {
      ordered_json components = component_lists(phase.value("components", ordered_json::object()));
      for (auto& layers : components) {
        for (auto& layer : layers) {
          for (const Pairs& pairs : kPairs) layer.erase(pairs.key);
        }
      }
      drop_derived(components);
      data["phases"][name] = std::move(components);
    }
    data["warnings"] = warnings_of(manifest);
    round_reals(data["components"], digits_for(reals_in(data["components"])));
    round_reals(data["attention"], digits_for(reals_in(data["attention"])));
    round_reals(data["phases"], digits_for(reals_in(data["phases"])));
    return data;
  } catch (const NotASummary&) {
    throw CommandError((paths.about / "summary.json").string() + ": is not a summary that this moetap knows");
  } catch (const nlohmann::json::exception&) {
    throw CommandError((paths.about / "summary.json").string() + ": is not a summary that this moetap knows");
  }
}

}  // namespace moetap::cli
