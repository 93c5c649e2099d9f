#include "cli/report/analysis_data.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "cli/report/run_data.h"
#include "cli/report/size_budget.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kKnownSchema = 1;
// What makes a row worth keeping, the first column that the table has.
constexpr const char* kRanks[] = {"weight", "share", "strength", "count", "importance", "usage", "gate_mass"};

// Tables of which some rows would mislead: whole, or not in the page, where the run's counts or another study stand in.
constexpr const char* kWholeOrNone[] = {"usage", "expert_usage", "top_experts", "expert_evolution_stats",
                                        "sankey_evolution"};
// Tables that are drawn a layer at a time, each of its rows being needed: some layers, whole.
constexpr const char* kWholeLayers[] = {"placement", "expert_cache"};

bool is_one_of(const std::string& name, const auto& names) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

/// A table {column: [values]} where it lies.
struct Place {
  ordered_json* study;
  std::string name;
  int64_t bytes = 0;

  ordered_json& table() const { return (*study)["tables"][name]; }
};

size_t num_rows(const ordered_json& table) {
  size_t rows = 0;
  for (const auto& column : table) {
    if (column.is_array()) rows = std::max(rows, column.size());
  }
  return rows;
}

std::vector<size_t> rows_to_keep(const ordered_json& table, size_t count) {
  std::vector<size_t> rows(num_rows(table));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = i;
  for (const char* rank : kRanks) {
    const auto column = table.find(rank);
    if (column == table.end() || !column->is_array()) continue;
    const auto value = [&](size_t row) {
      return row < column->size() && (*column)[row].is_number() ? (*column)[row].get<double>() : -1.0;
    };
    std::stable_sort(rows.begin(), rows.end(), [&](size_t a, size_t b) { return value(a) > value(b); });
    rows.resize(count);
    std::sort(rows.begin(), rows.end());
    return rows;
  }
  std::vector<size_t> kept;
  for (size_t i = 0; i < count; ++i) kept.push_back(i * rows.size() / count);
  return kept;
}

/// The rows of so many layers, taken evenly, that they are `count` rows at most; of one layer at least.
std::vector<size_t> layers_to_keep(const ordered_json& layers, size_t count) {
  std::vector<size_t> begins;  // of the rows of each layer, which follow each other
  for (size_t row = 0; row < layers.size(); ++row) {
    if (row == 0 || layers[row] != layers[row - 1]) begins.push_back(row);
  }
  const size_t kept = std::clamp<size_t>(begins.size() * count / layers.size(), 1, begins.size());
  std::vector<size_t> rows;
  for (size_t i = 0; i < kept; ++i) {
    const size_t place = i * begins.size() / kept;
    const size_t end = place + 1 < begins.size() ? begins[place + 1] : layers.size();
    for (size_t row = begins[place]; row < end; ++row) rows.push_back(row);
  }
  return rows;
}

void keep(ordered_json& table, const std::vector<size_t>& rows) {
  for (auto& column : table) {
    if (!column.is_array()) continue;
    ordered_json kept = ordered_json::array();
    for (const size_t row : rows) kept.push_back(row < column.size() ? std::move(column[row]) : ordered_json());
    column = std::move(kept);
  }
}

/// The bytes that the table still takes.
int64_t cut(const Place& place, int64_t most_bytes) {
  ordered_json& table = place.table();
  const size_t all = num_rows(table);
  const bool by_layer = is_one_of(place.name, kWholeLayers) && table.contains("layer") && table["layer"].is_array();
  int64_t bytes = place.bytes;
  // The rows that are kept may be longer than the mean: then fewer are.
  for (size_t before = all; bytes > most_bytes && before > 0;) {
    const double share = static_cast<double>(most_bytes) / static_cast<double>(bytes);
    const auto count = static_cast<size_t>(static_cast<double>(before) * share);
    if (is_one_of(place.name, kWholeOrNone)) {
      keep(table, {});
    } else {
      keep(table, by_layer ? layers_to_keep(table["layer"], count) : rows_to_keep(table, count));
    }
    bytes = json_bytes(table);
    if (num_rows(table) == before) break;  // a single layer
    before = num_rows(table);
  }
  const size_t count = num_rows(table);
  (*place.study)["left_out"][place.name] =
      count == 0
          ? fmt::format("{} has {} rows: too many for this page; {}.csv has all.", place.name, all, place.name)
          : fmt::format("{} of {} rows of {} are in this page; {}.csv has all.", count, all, place.name, place.name);
  return bytes;
}

/// Leaves out the column that says what the page knows already.
void drop_component(ordered_json& table, const std::string& component) {
  const auto column = table.find("component");
  if (column == table.end() || !column->is_array() || column->empty()) return;
  if (std::all_of(column->begin(), column->end(), [&](const auto& value) { return value == component; }))
    table.erase(column);
}

}  // namespace

bool is_analysis(const std::string& folder) {
  std::error_code error;
  return std::filesystem::is_regular_file(std::filesystem::path(folder) / "analysis.json", error);
}

ordered_json read_analysis(const std::string& folder) {
  const std::string path = (std::filesystem::path(folder) / "analysis.json").string();
  ordered_json data = read_json_file(path);
  const ordered_json version = data.value("schema_version", ordered_json());
  if (version != kKnownSchema) {
    throw CommandError(
        fmt::format("{}: has schema_version {}, this moetap reads {}", path, version.dump(), kKnownSchema));
  }
  if (!data.value("components", ordered_json()).is_object())
    throw CommandError(path + ": has no components; is it of moetap analyze?");
  return data;
}

void cut_analysis(ordered_json& data, int64_t most_bytes) {
  std::vector<Place> places;
  for (auto& [component, studies] : data["components"].items()) {
    if (!studies.is_object()) continue;
    for (auto& study : studies) {
      if (!study.is_object() || !study.contains("tables") || !study["tables"].is_object()) continue;
      for (auto& [name, table] : study["tables"].items()) {
        if (!table.is_object()) continue;
        drop_component(table, component);
        places.push_back({&study, name, json_bytes(table)});
      }
    }
  }
  std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.bytes < b.bytes; });
  // Sentences, names and what will be said about cuts are no rows, and are in the page all the same.
  constexpr int64_t kNote = 120;
  int64_t left = most_bytes - json_bytes(data);
  for (const Place& place : places) left += place.bytes - kNote;
  for (size_t i = 0; i < places.size(); ++i) {
    const int64_t allowed = std::max<int64_t>(left, 0) / static_cast<int64_t>(places.size() - i);
    left -= places[i].bytes > allowed ? cut(places[i], allowed) : places[i].bytes;
  }
}

void merge_analysis(ordered_json& data, const ordered_json& other, const std::string& folder,
                    std::vector<std::string>& notices) {
  if (data.is_null()) {
    data = other;
    return;
  }
  std::vector<std::string> twice;
  for (const auto& [component, studies] : other["components"].items()) {
    for (const auto& [name, study] : studies.items()) {
      if (data["components"][component].contains(name)) {
        twice.push_back(fmt::format("{} ({})", name, component));
      } else {
        data["components"][component][name] = study;
      }
    }
  }
  for (const auto& line : other.value("notices", ordered_json::array())) {
    ordered_json& lines = data["notices"];
    if (std::find(lines.begin(), lines.end(), line) == lines.end()) lines.push_back(line);
  }
  if (twice.empty()) return;
  notices.push_back(fmt::format("{}: these studies are not in this page, an analysis named before has them: {}", folder,
                                fmt::join(twice, ", ")));
}

}  // namespace moetap::cli
