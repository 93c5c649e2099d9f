#include "plugin/merge/merged_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "plugin/formats/byte_stream.h"
#include "plugin/formats/json_text.h"
#include "plugin/journal/logged_forward.h"
#include "plugin/records/config_keys.h"
#include "plugin/records/model_description_json.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

/// Everything of a model but which instance of it this is and where its file lay.
std::string description_text(ModelDescription model) {
  model.instance.clear();
  model.model_file.clear();
  return to_text(model);
}

class StateMerge {
 public:
  StateMerge(RunState& state, SumsWriter& sums, RunParts& parts) : state_(state), sums_(sums), parts_(parts) {}

  void run() {
    for (const auto& part : parts_) {
      for (const auto& model : part->models()) add_model(*model);
      for (const Frame& frame : part->descriptions()) add_description(*part, frame);
      part->for_frames(kSummed, [&](std::string_view payload) { add_sums(*part, payload); });
    }
    add_probe();
  }

 private:
  void add_model(ModelDescription model) {
    for (const auto& known : state_.models) {
      if (known->instance == model.instance) return;
      if (description_text(*known) == description_text(model)) model.model_file = known->model_file;
    }
    state_.models.push_back(std::make_shared<const ModelDescription>(std::move(model)));
    sums_.add(kModelAdded, to_text(*state_.models.back()));
  }

  const ModelDescription& model_of(const RunPart& part, const ordered_json& frame) const {
    const auto instance = frame.at(keys::kInstance.name).get<std::string>();
    for (const auto& model : state_.models) {
      if (model->instance == instance) return *model;
    }
    throw std::runtime_error(sums_path(part.paths()) + ": names a model that it does not hold");
  }

  void add_description(RunPart& part, const Frame& frame) {
    if (frame.kind == kHookPlaced) {
      place_hook(part, ordered_json::parse(frame.payload));
      return;
    }
    const json text = json::parse(frame.payload);
    if (frame.kind == kMethodRan) {
      state_.methods_that_ran.emplace(text.at(keys::kInstance.name).get<std::string>(),
                                      text.at(keys::kMethod.name).get<std::string>());
    } else {
      const std::pair hook(text.at(keys::kInstance.name).get<std::string>(), text.at(keys::kHook.name).get<int64_t>());
      state_.unverified[hook].try_emplace(text.at(keys::kColumn.name).get<std::string>(),
                                          text.at(keys::kReason.name).get<std::string>());
    }
    if (described_.insert(frame.payload).second) sums_.add(frame.kind, frame.payload);
  }

  void place_hook(RunPart& part, ordered_json placed) {
    const ModelDescription& model = model_of(part, placed);
    const auto hook = placed.at(keys::kHook.name).get<int64_t>();
    const bool is_router = model.hooks.at(static_cast<size_t>(hook)).kind == hooks::HookKind::kRouter;
    LayerTable& table = is_router ? state_.layers : state_.attention_layers;
    const LayerTable& beside = is_router ? state_.attention_layers : state_.layers;
    const size_t before = table.placements().size();
    const size_t place = table.place(model, hook, placed.at(keys::kNumExperts.name).get<int64_t>(), &beside);
    const RunLayer& layer = table.layers()[place];
    const auto id = placed.at(keys::kLayer.name).get<std::string>();
    if (layer.layer != id) {
      throw std::runtime_error(
          fmt::format("{}: layer {} of {} ({}) would be layer {} of the merged run: another run has a layer {} of its "
                      "own, so these runs cannot be merged",
                      part.name(), id, layer.component, layer.name, layer.layer, id));
    }
    const auto place_there = placed.at(keys::kPlace.name).get<size_t>();
    std::vector<size_t>& places = is_router ? part.routers : part.attention;
    if (places.size() <= place_there) places.resize(place_there + 1);
    places[place_there] = place;
    if (table.placements().size() == before) return;
    placed[keys::kPlace.name] = place;
    sums_.add(kHookPlaced, compact_text(placed));
  }

  void add_sums(const RunPart& part, std::string_view payload) {
    SummaryPart sums = decode_summary_part(payload, {}, {});
    for (RouterTotal& router : sums.routers) router.layer = part.routers.at(router.layer);
    for (SummaryPart::Transition& transition : sums.transitions) {
      transition.from = part.routers.at(transition.from);
      transition.to = part.routers.at(transition.to);
    }
    for (AttentionTotal& attention : sums.attention) attention.layer = part.attention.at(attention.layer);
    for (ExpertAttentionTotal& experts : sums.attention_of_experts) {
      experts.layer = part.attention.at(experts.layer);
      experts.router = part.routers.at(experts.router);
    }
    state_.summary.add(sums);
  }

  void add_probe() {
    struct Probed {
      int64_t first_sample = 0;
      size_t part = 0;
      std::string encoded;
    };
    std::vector<Probed> all;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const RunPart& part = *parts_[i];
      part.for_frames(kProbed, [&](std::string_view payload) {
        ByteReader bytes(payload);
        const int64_t first_sample = part.renumbered(bytes.number());
        bytes.number();  // the forward: frames of one part are in their order
        all.push_back({first_sample, i, std::string(payload.substr(payload.size() - bytes.size()))});
      });
    }
    std::stable_sort(all.begin(), all.end(), [](const Probed& a, const Probed& b) {
      return std::tie(a.first_sample, a.part) < std::tie(b.first_sample, b.part);
    });
    int64_t number = 0;
    for (const Probed& probed : all) {
      const std::string taken = state_.probe.take(probed.encoded, parts_[probed.part]->routers);
      if (taken.empty()) continue;
      state_.probe.add(taken);
      sums_.add_probed(probed.first_sample, number++, taken);
    }
  }

  RunState& state_;
  SumsWriter& sums_;
  RunParts& parts_;
  std::set<std::string> described_;
};

}  // namespace

Config merged_config(const RunParts& parts) {
  Config config = parts.front()->ending().config;
  const Config defaults;
  std::set<std::string> devices;
  for (const auto& part : parts) {
    const Config& other = part->ending().config;
    devices.insert(other.device);
    config.seed = std::min(config.seed, other.seed);
  }
  for (const ConfigKey& key : config_keys()) {
    if (!key.free_on_resume) continue;
    const auto value = key.get(parts.front()->ending().config);
    const bool same = std::all_of(parts.begin(), parts.end(),
                                  [&](const auto& part) { return key.get(part->ending().config) == value; });
    key.put(config, same ? value : key.get(defaults));
  }
  // Lines of a samples file are by number: they fit no samples that were numbered on.
  if (std::any_of(parts.begin(), parts.end(), [](const auto& part) { return part->sample_offset != 0; })) {
    config.samples.clear();
  }
  config.output_dir.clear();
  config.resume = false;
  config.device.clear();
  for (const std::string& device : devices) config.device += (config.device.empty() ? "" : ",") + device;
  return config;
}

void add_parts(RunState& state, SumsWriter& sums, RunParts& parts) {
  StateMerge(state, sums, parts).run();
}

RunEnding merged_ending(const RunState& state, const RunParts& parts) {
  RunEnding all;
  all.config = state.config;
  int64_t called = 0, failed = 0;
  for (const auto& part : parts) {
    const RunEnding& ending = part->ending();
    called = std::max(called, ending.counters.called_hooks);
    failed = std::max(failed, ending.counters.failed_hooks);
    all.counters += ending.counters;
    all.losses.not_finite += ending.losses.not_finite;
    for (const auto& [text, times] : ending.losses.refused_names) all.losses.refused_names[text] += times;
    all.closed = std::max(all.closed, ending.closed);
    all.times_resumed += ending.times_resumed;
    for (const std::string& line : ending.missing) {
      if (std::find(all.missing.begin(), all.missing.end(), line) == all.missing.end()) all.missing.push_back(line);
    }
    if (!ending.recovery) continue;
    if (!all.recovery) all.recovery.emplace();
    RecoveryNote& note = *all.recovery;
    note.owner += (note.owner.empty() ? "" : "; ") + ending.recovery->owner;
    note.lost_bytes += ending.recovery->lost_bytes;
    note.lost_forwards += ending.recovery->lost_forwards;
    note.missing_dump_rows += ending.recovery->missing_dump_rows;
  }
  std::set<std::pair<std::string, int64_t>> reported;  // identity of the model, hook
  for (const LayerTable* table : {&state.layers, &state.attention_layers}) {
    for (const LayerTable::Placement& placement : table->placements()) {
      const auto model = std::find_if(state.models.begin(), state.models.end(),
                                      [&](const auto& known) { return known->instance == placement.instance; });
      if (model != state.models.end()) reported.emplace((*model)->identity, placement.hook);
    }
  }
  all.counters.called_hooks = std::max(called, static_cast<int64_t>(reported.size()));
  all.counters.failed_hooks = failed;
  return all;
}

}  // namespace moetap::plugin
