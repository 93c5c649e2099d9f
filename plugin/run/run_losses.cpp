#include "plugin/run/run_losses.h"

#include <fmt/format.h>

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>

#include "plugin/records/counters.h"
#include "plugin/results/json_keys.h"
#include "plugin/run/run_paths.h"
#include "plugin/run/run_ranks.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;

int64_t count_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

void add_losses(const std::string& of, const json& manifest, std::vector<std::string>& losses) {
  for (const json& line : manifest.value(keys::kMissing.name, json::array())) {
    if (line.is_string())
      losses.push_back(fmt::format("{}: merged without all of it: {}", of, line.get<std::string>()));
  }
  const json lost = manifest.value(keys::kLost.name, json::object());
  const int64_t forwards = count_of(lost, keys::kForwards.name), rows = count_of(lost, keys::kDumpRows.name);
  if (forwards > 0 || rows > 0) {
    losses.push_back(
        fmt::format("{}: recovered from a process that died: at least {} forwards and {} rows of the dump were lost",
                    of, forwards, rows));
  }
  const json counters = manifest.value(keys::kCounters.name, json::object());
  for (const CounterInfo& count : kCounters) {
    if (count.member != &Counters::dropped && count.member != &Counters::unwritten) continue;
    const int64_t number = count_of(counters, count.key.name);
    if (number > 0) losses.push_back(fmt::format("{}: is without {} {}", of, number, count.loss));
  }
}

}  // namespace

std::vector<std::string> run_losses(const std::string& run_dir) {
  std::vector<std::string> losses;
  const std::vector<int64_t> ranks = find_run_ranks(run_dir).done;
  for (const int64_t rank : ranks) {
    std::ifstream file(RunPaths(run_dir, rank).about / "manifest.json");
    const json manifest = json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (!manifest.is_object()) continue;
    add_losses(ranks.size() == 1 ? run_dir : fmt::format("{} (rank {})", run_dir, rank), manifest, losses);
  }
  return losses;
}

}  // namespace moetap::plugin
