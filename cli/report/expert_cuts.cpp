#include "cli/report/expert_cuts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cli/report/size_budget.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;

struct Table {
  const char* key;
  const char* kept;
  int64_t most_reals;  // of all layers
};
constexpr Table kTables[] = {{"pattern", "kept_patterns", 24'576},
                             {"flow", "kept_flows", 16'000},
                             {"flow_weight", "kept_flow_weights", 16'000},
                             {"specialization", "kept_specializations", 12'000}};

int64_t num_reals(const ordered_json& value) {
  if (!value.is_array()) return value.is_number() ? 1 : 0;
  int64_t count = 0;
  for (const auto& one : value) count += num_reals(one);
  return count;
}

void for_experts(ordered_json& attention, const std::function<void(ordered_json&)>& use) {
  for (auto& layers : attention) {
    for (auto& layer : layers) {
      if (!layer.contains("experts")) continue;
      ordered_json& experts = layer["experts"];
      if (experts.is_object()) use(experts);
      if (experts.is_array()) std::for_each(experts.begin(), experts.end(), use);
    }
  }
}

/// Experts by gate mass, largest first, ties to the lower id.
std::vector<size_t> heaviest_first(const ordered_json& mass) {
  std::vector<size_t> order(mass.size());
  for (size_t e = 0; e < order.size(); ++e) order[e] = e;
  const auto of = [&](size_t e) { return mass[e].is_number() ? mass[e].get<double>() : -1.0; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return of(a) > of(b); });
  return order;
}

}  // namespace

void drop_experts(ordered_json& attention) {
  for (auto& layers : attention) {
    for (auto& layer : layers) layer.erase("experts");
  }
}

std::string cut_experts(ordered_json& attention, int64_t most_bytes) {
  for (const Table& table : kTables) {
    int64_t reals = 0, layers = 0, of_one = 1;
    for_experts(attention, [&](ordered_json& experts) {
      if (!experts.contains(table.key) || !experts[table.key].is_array() || experts[table.key].empty()) return;
      reals += num_reals(experts[table.key]);
      of_one = std::max(of_one, num_reals(experts[table.key][0]));
      ++layers;
    });
    if (reals <= table.most_reals) continue;
    const auto kept = static_cast<size_t>(std::max<int64_t>(1, table.most_reals / layers / of_one));
    for_experts(attention, [&](ordered_json& experts) {
      if (!experts.contains(table.key) || experts[table.key].size() <= kept || !experts.contains("gate_mass")) return;
      const std::vector<size_t> order = heaviest_first(experts["gate_mass"]);
      ordered_json of_kept = ordered_json::object();
      for (size_t i = 0; i < kept && i < order.size(); ++i)
        of_kept[std::to_string(order[i])] = std::move(experts[table.key][order[i]]);
      experts[table.key] = std::move(of_kept);
      experts[table.kept] = kept;
    });
  }
  std::vector<ordered_json*> with_experts;
  int64_t bytes = 0;
  for (auto& layers : attention) {
    for (auto& layer : layers) {
      if (!layer.contains("experts")) continue;
      with_experts.push_back(&layer);
      bytes += json_bytes(layer["experts"]);
    }
  }
  const auto all = static_cast<int64_t>(with_experts.size());
  if (bytes <= most_bytes) return "";
  const int64_t kept = std::clamp<int64_t>(most_bytes * all / bytes, 1, all);
  for (int64_t i = 0, next = 0; i < all; ++i) {
    // The next of `kept` even steps.
    if (i == next * all / kept) {
      ++next;
    } else {
      with_experts[static_cast<size_t>(i)]->erase("experts");
    }
  }
  return fmt::format("attention by expert is in this page for {} of {} layers, taken evenly", kept, all);
}

}  // namespace moetap::cli
