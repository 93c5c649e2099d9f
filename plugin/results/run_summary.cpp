#include "plugin/results/run_summary.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <vector>

#include "plugin/formats/atomic_file.h"
#include "plugin/formats/json_text.h"
#include "plugin/results/attention_json.h"
#include "plugin/results/json_keys.h"
#include "plugin/results/router_json.h"

namespace moetap::plugin {
namespace {

using analysis::RouterSums;
using nlohmann::ordered_json;

constexpr int kSchemaVersionOfSummary = 1;

}  // namespace

void RunSummary::add(const SummaryPart& part) {
  Phase& phase = part.generation ? generation_ : prompt_;
  phase.forwards += part.forwards;
  for (const RouterTotal& router : part.routers) add_sums(phase.sums[router.layer], router.sums);
  for (const auto& transition : part.transitions) {
    analysis::merge(phase.transitions[{transition.from, transition.to}], transition.sums);
  }
  phase.add(part.held);
  for (const AttentionTotal& attention : part.attention) phase.add(attention);
  for (const ExpertAttentionTotal& experts : part.attention_of_experts) phase.add(experts);
}

void RunSummary::Phase::add(const AttentionTotal& total) {
  const auto [known, is_new] = attention.try_emplace(total.layer, total);
  if (!is_new) analysis::merge(known->second.sums, total.sums);
}

void RunSummary::Phase::add(const ExpertAttentionTotal& total) {
  constexpr int64_t kMostWaiting = 256;  // rows: adding has a cost of its own, of the sums' length
  const auto [known, is_new] = attention_of_experts.try_emplace({total.layer, total.router}, total);
  ExpertAttentionTotal& all = known->second;
  if (!is_new) {
    analysis::merge(all.sums, total.sums);
    all.rows.insert(all.rows.end(), total.rows.begin(), total.rows.end());
  }
  if (all.num_waiting() >= kMostWaiting) all.add_waiting();
}

std::vector<SummaryPart> RunSummary::parts() const {
  std::vector<SummaryPart> parts;
  const auto add_part = [&](const Phase& phase, int64_t forwards) -> SummaryPart& {
    SummaryPart& part = parts.emplace_back();
    part.forwards = forwards;
    part.generation = &phase == &generation_;
    return part;
  };
  for (const Phase* phase : {&prompt_, &generation_}) {
    if (phase->forwards > 0) add_part(*phase, phase->forwards);
    for (const auto& [layer, sums] : phase->sums) add_part(*phase, 0).routers.push_back({layer, sums});
    for (const auto& [pair, sums] : phase->transitions) {
      add_part(*phase, 0).transitions.push_back({pair.first, pair.second, sums});
    }
    for (const auto& [layer, total] : phase->attention) add_part(*phase, 0).attention.push_back(total);
    for (const auto& [pair, total] : phase->attention_of_experts) {
      add_part(*phase, 0).attention_of_experts.push_back(total);
    }
  }
  return parts;
}

RouterSums RunSummary::sums_without_pairs(size_t layer) const {
  RouterSums all;
  for (const Phase* phase : {&prompt_, &generation_}) {
    const auto known = phase->sums.find(layer);
    if (known == phase->sums.end() || !known->second.defined()) continue;
    RouterSums rows = known->second;
    if (rows.has_pairs) {
      rows.words = rows.words.narrow(0, 0, rows.layout().pairs_begin());
      rows.has_pairs = false;
    }
    if (all.defined()) {
      add_sums(all, rows);
    } else {
      all = rows;
      all.words = all.words.clone();
    }
  }
  return all;
}

std::vector<size_t> RunSummary::routers_of(size_t attention_layer) const {
  std::set<size_t> routers;
  for (const Phase* phase : {&prompt_, &generation_}) {
    for (const auto& [place, total] : phase->attention_of_experts) {
      if (place.first == attention_layer) routers.insert(place.second);
    }
  }
  return {routers.begin(), routers.end()};
}

void RunSummary::Phase::add(const std::vector<HeldRows>& held) {
  std::vector<bool> is_followed(held.size());
  for (const HeldRows& rows : held) {
    if (rows.before >= 0) is_followed[static_cast<size_t>(rows.before)] = true;
  }
  std::vector<int32_t> first_slots;         // of the rows that others follow, and of those at hand
  std::vector<size_t> begins(held.size());  // in `first_slots`
  for (size_t place = 0; place < held.size(); ++place) {
    const HeldRows& rows = held[place];
    RouterSums& total = sums[rows.layer];
    if (rows.before < 0 && !is_followed[place]) {
      add_to(total, rows);
      continue;
    }
    const auto num_tokens = static_cast<size_t>(rows.values.num_tokens);
    const size_t begin = begins[place] = first_slots.size();
    first_slots.resize(begin + num_tokens);
    add_to(total, rows, first_slots.data() + begin);
    if (rows.before >= 0) {
      const auto place_before = static_cast<size_t>(rows.before);
      const HeldRows& before = held[place_before];
      const std::span<const int32_t> all(first_slots);
      analysis::add_transitions(transitions[{before.layer, rows.layer}],
                                all.subspan(begins[place_before], static_cast<size_t>(before.values.num_tokens)),
                                all.subspan(begin), before.values.num_experts, rows.values.num_experts);
    }
    if (!is_followed[place]) first_slots.resize(begin);
  }
}

void RunSummary::Phase::merge(const Phase& other) {
  forwards += other.forwards;
  for (const auto& [layer, added] : other.sums) add_sums(sums[layer], added);
  for (const auto& [pair, added] : other.transitions) analysis::merge(transitions[pair], added);
  for (const auto& [layer, total] : other.attention) add(total);
  for (const auto& [pair, total] : other.attention_of_experts) add(total);
}

void RunSummary::write(const std::string& path, const std::string& task, const RunLayers& layers,
                       const AttentionRegions& regions) const {
  AtomicFile file(path);
  file.write(fmt::format("{{{}: {}, {}: {}, {}: {}, {}: {{", quoted_text(keys::kSchemaVersion.name),
                         kSchemaVersionOfSummary, quoted_text(keys::kTask.name), quoted_text(task),
                         quoted_text(keys::kForwards.name), forwards(), quoted_text(keys::kComponents.name)));
  Phase whole;
  whole.merge(prompt_);
  whole.merge(generation_);
  write_components(file, whole, layers.routers);
  file.write(fmt::format("\n }}, {}: {{", quoted_text(keys::kAttention.name)));
  write_attention(file, whole, layers, regions);
  file.write("}");
  if (generation_.forwards > 0) {
    file.write(fmt::format(", {}: {{", quoted_text(keys::kPhases.name)));
    const char* separator = "";
    for (const auto& [key, phase] :
         {std::pair(&keys::kPrompt, &prompt_), std::pair(&keys::kGeneration, &generation_)}) {
      file.write(fmt::format("{}\n {}: {{{}: {}, {}: {{", separator, quoted_text(key->name),
                             quoted_text(keys::kForwards.name), phase->forwards, quoted_text(keys::kComponents.name)));
      write_components(file, *phase, layers.routers);
      file.write("\n }");
      if (!layers.attention.layers().empty()) {
        file.write(fmt::format(", {}: {{", quoted_text(keys::kAttention.name)));
        write_attention(file, *phase, layers, regions);
        file.write("}");
      }
      file.write("}");
      separator = ",";
    }
    file.write("}");
  }
  file.write("}\n");
  file.commit();
}

void RunSummary::write_components(AtomicFile& file, const Phase& phase, const LayerTable& layers) {
  // One layer at a time: with many experts, the E × E tables of pairs take much memory as JSON values.
  const char* component_separator = "\n ";
  for (const auto& [component, places] : layers.by_component()) {
    file.write(fmt::format("{}{}: {{", component_separator, quoted_text(component)));
    component_separator = ",\n ";
    const char* layer_separator = "\n  ";
    for (size_t i = 0; i < places.size(); ++i) {
      const RunLayer& layer = layers.layers()[places[i]];
      const auto sums = phase.sums.find(places[i]);
      const auto json =
          router_json(layer, sums == phase.sums.end() ? nullptr : &sums->second, phase.next_of(places, i));
      file.write(fmt::format("{}{}: {}", layer_separator, quoted_text(layer.layer), compact_text(json)));
      layer_separator = ",\n  ";
    }
    file.write("}");
  }
}

void RunSummary::write_attention(AtomicFile& file, const Phase& phase, const RunLayers& layers,
                                 const AttentionRegions& regions) {
  const char* component_separator = "\n ";
  for (const auto& [component, places] : layers.attention.by_component()) {
    file.write(fmt::format("{}{}: {{", component_separator, quoted_text(component)));
    component_separator = ",\n ";
    const char* layer_separator = "\n  ";
    for (const size_t place : places) {
      const auto total = phase.attention.find(place);
      std::vector<const ExpertAttentionTotal*> experts;
      for (const auto& [pair, of_experts] : phase.attention_of_experts) {
        if (pair.first == place) experts.push_back(&of_experts);
      }
      const RunLayer& layer = layers.attention.layers()[place];
      const auto json = attention_json(layer, total == phase.attention.end() ? nullptr : &total->second, experts,
                                       layers.routers, regions);
      file.write(fmt::format("{}{}: {}", layer_separator, quoted_text(layer.layer), compact_text(json)));
      layer_separator = ",\n  ";
    }
    file.write("}");
  }
}

const analysis::TransitionSums* RunSummary::Phase::next_of(const std::vector<size_t>& places, size_t from) const {
  // Skips layers that did not run (in an arm that was not taken): there are no transitions to them.
  for (size_t next = from + 1; next < places.size(); ++next) {
    const auto found = transitions.find({places[from], places[next]});
    if (found != transitions.end()) return &found->second;
  }
  return nullptr;
}

}  // namespace moetap::plugin
