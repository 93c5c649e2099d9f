#include "plugin/results/manifest_file.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "plugin/formats/atomic_file.h"
#include "plugin/formats/json_text.h"
#include "plugin/records/model_description_json.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

constexpr int kSchemaVersionOfManifest = 1;

std::string iso_time(std::chrono::system_clock::time_point time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(time - seconds).count();
  const std::time_t whole = std::chrono::system_clock::to_time_t(seconds);
  std::tm utc{};
  ::gmtime_r(&whole, &utc);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", utc, milliseconds);
}

using Models = std::vector<std::shared_ptr<const ModelDescription>>;

// Groups the instances of each model: one that was attached several times, as by processes that resumed the run, is to
// be described once.
std::vector<Models> distinct_models(const Models& models) {
  std::map<std::string, size_t> known;  // description without the instance
  std::vector<Models> distinct;
  for (const auto& model : models) {
    ModelDescription description = *model;
    description.instance.clear();
    const auto [place, is_new] = known.try_emplace(to_text(description), distinct.size());
    if (is_new) distinct.emplace_back();
    distinct[place->second].push_back(model);
  }
  return distinct;
}

// `same`: the instances of one model.
void add_model(ordered_json& json, const Models& same, const Manifest& manifest) {
  const ModelDescription& model = *same.front();
  json[keys::kModel.name] = model.model_file;
  json[keys::kSha256.name] = model.sha256;
  ordered_json hooks = hooks_to_json(model.hooks);
  for (size_t i = 0; i < hooks.size(); ++i) {
    const bool is_router = model.hooks[i].kind == hooks::HookKind::kRouter;
    const LayerTable& layers = is_router ? manifest.layers : manifest.attention_layers;
    std::optional<size_t> place;
    for (size_t n = 0; n < same.size() && !place; ++n) place = layers.find(same[n]->instance, model.hooks[i].id);
    hooks[i][keys::kReported.name] = place.has_value();
    if (!is_router && place) {
      ordered_json routers = ordered_json::array();
      for (const size_t router : manifest.summary.routers_of(*place)) {
        routers.push_back(manifest.layers.layers()[router].name);
      }
      hooks[i][keys::kRouters.name] = std::move(routers);
    }
    hooks[i][keys::kRunLayer.name] = place ? ordered_json(layers.layers()[*place].layer) : ordered_json(nullptr);
    for (const auto& instance : same) {
      const auto found = manifest.unverified.find({instance->instance, model.hooks[i].id});
      if (found == manifest.unverified.end()) continue;
      for (const auto& [column, reason] : found->second) hooks[i][keys::kUnverified.name][column] = reason;
    }
  }
  json[keys::kHooks.name] = std::move(hooks);
  json[keys::kSkipped.name] = skipped_to_json(model.skipped);
}

ordered_json counters_json(const Counters& counters, const LogLosses& losses) {
  ordered_json json = ordered_json::object();
  for (const CounterInfo& count : kCounters) json[count.key.name] = counters.*count.member;
  json[keys::kNotFinite.name] = losses.not_finite;
  return json;
}

}  // namespace

void write_manifest_file(const std::string& path, const Manifest& manifest) {
  ordered_json json = {{keys::kSchemaVersion.name, kSchemaVersionOfManifest}};
  const std::vector<Models> models = distinct_models(manifest.models);
  if (!models.empty()) add_model(json, models.front(), manifest);
  ordered_json others = ordered_json::array();
  for (size_t i = 1; i < models.size(); ++i) {
    add_model(others.emplace_back(ordered_json::object()), models[i], manifest);
  }
  if (!others.empty()) json[keys::kOtherModels.name] = std::move(others);
  json[keys::kVersions.name] = {{keys::kMoetap.name, MOETAP_VERSION}, {keys::kLibTorch.name, TORCH_VERSION}};
  json[keys::kDevice.name] = manifest.config.device;
  json[keys::kConfig.name] = manifest.config.to_json();
  json[keys::kRank.name] = manifest.rank.rank;
  json[keys::kWorldSize.name] = manifest.rank.world_size;
  json[keys::kCounters.name] = counters_json(manifest.counters, manifest.losses);
  ordered_json notices = ordered_json::object();
  for (const auto* source : {&manifest.counters.notices, &manifest.losses.refused_names}) {
    for (const auto& [text, times] : *source) notices[text] = times;
  }
  for (const std::string& notice : manifest.notices) notices[notice] = 1;
  json[keys::kNotices.name] = std::move(notices);
  const std::chrono::duration<double> took = manifest.times.closed - manifest.times.opened;
  json[keys::kTimes.name] = {{keys::kOpened.name, iso_time(manifest.times.opened)},
                             {keys::kClosed.name, iso_time(manifest.times.closed)},
                             {keys::kSeconds.name, took.count()}};
  if (manifest.times_resumed > 0) json[keys::kResumed.name] = manifest.times_resumed;
  if (manifest.recovery) {
    const RecoveryNote& recovery = *manifest.recovery;
    json[keys::kRecovered.name] = true;
    json[keys::kRecoveredFrom.name] = recovery.owner;
    json[keys::kLost.name] = {{keys::kJournalBytes.name, recovery.lost_bytes},
                              {keys::kForwards.name, recovery.lost_forwards},
                              {keys::kDumpRows.name, recovery.missing_dump_rows}};
  }
  if (!manifest.missing.empty()) json[keys::kMissing.name] = manifest.missing;
  write_file_atomically(path, indented_text(json));
}

}  // namespace moetap::plugin
