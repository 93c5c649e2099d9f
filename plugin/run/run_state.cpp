#include "plugin/run/run_state.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "plugin/journal/logged_forward.h"
#include "plugin/records/model_description_json.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

std::string text(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace

RunState::RunState(Config run_config, ProcessRank process_rank, const RunPaths& paths)
    : config(std::move(run_config)),
      rank(process_rank),
      probe(config.probe_tokens),
      dump(config.dump, {paths.dump.string(), paths.journal.string(), rank.rank}) {}

void RunState::add_model(std::shared_ptr<const ModelDescription> model, RunJournal& journal) {
  journal.add(kModelAdded, to_text(*model));
  models.push_back(std::move(model));
}

void RunState::write(const ForwardRecord& record, RunJournal& journal) {
  dump.settle();
  LoggedForward logged = log_forward(record, layers, config);
  ForwardTally tally;
  tally.index = record.index;
  tally.tokens = record.tokens;
  tally.out_of_range = record.out_of_range;
  tally.unattributed = std::count_if(record.routers.begin(), record.routers.end(),
                                     [](const RouterRecord& router) { return !router.attributed; });
  if (config.dump != Dump::kNone) {
    tally.dump_rows = dump.add(record, layers);
    const std::string layout = dump.changed_layout();
    if (!layout.empty()) journal.add(kDumpLayout, layout);
  }
  const std::string probed = probe.add(record, layers);
  add_placements(journal);
  if (!probed.empty()) journal.add(kProbe, probed);
  if (!record.values_only && methods_that_ran.emplace(record.model->instance, record.method).second) {
    journal.add(kMethodRan, text(ordered_json{{"instance", record.model->instance}, {"method", record.method}}));
  }
  const SummaryPart part = logged.summary;
  journal.add(std::move(logged), tally);
  summary.add(part);
}

void RunState::add_placements(RunJournal& journal) {
  for (; placed_hooks_ < layers.placements().size(); ++placed_hooks_) {
    const LayerTable::Placement& placed = layers.placements()[placed_hooks_];
    const RunLayer& layer = layers.layers()[placed.place];
    journal.add(kHookPlaced, text(ordered_json{{"instance", placed.instance},
                                               {"hook", placed.hook},
                                               {"place", placed.place},
                                               {"component", layer.component},
                                               {"layer", layer.layer},
                                               {"num_experts", layer.num_experts}}));
  }
}

}  // namespace moetap::plugin
