#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "plugin/process/process_rank.h"
#include "plugin/records/config.h"
#include "plugin/records/counters.h"
#include "plugin/records/layer_table.h"
#include "plugin/records/model_description.h"
#include "plugin/records/record_sink.h"
#include "plugin/results/log_entry.h"
#include "plugin/results/run_summary.h"

namespace moetap::plugin {

/// What `moetap recover` found when it rebuilt a run's files.
struct RecoveryNote {
  std::string owner;              // the process that died
  int64_t lost_bytes = 0;         // of the journal, after the last frame that counts
  int64_t lost_forwards = 0;      // at least so many: they had ended at the journal's last sync and are not in it
  int64_t missing_dump_rows = 0;  // of forwards that are in the journal
  bool anything() const { return lost_bytes > 0 || lost_forwards > 0 || missing_dump_rows > 0; }
};

/// Columns that are withheld, with the reason, by hook: (instance, id).
using UnverifiedHooks = std::map<std::pair<std::string, int64_t>, std::map<std::string, std::string>>;

/// What `manifest.json` tells about a run.
struct Manifest {
  const Config& config;
  const std::vector<std::shared_ptr<const ModelDescription>>& models;
  const LayerTable& layers;  // of the routers
  const LayerTable& attention_layers;
  const RunSummary& summary;  // which routers go with which attention
  const UnverifiedHooks& unverified;
  ProcessRank rank;
  const Counters& counters;
  const LogLosses& losses;
  std::vector<std::string> notices;  // about the whole run, besides those that were counted
  RunTimes times;
  int64_t times_resumed = 0;
  std::optional<RecoveryNote> recovery;   // empty: the run's own process wrote the files
  std::vector<std::string> missing = {};  // what a merge left out, one line each
};

/// Throws std::runtime_error if the file cannot be written.
void write_manifest_file(const std::string& path, const Manifest& manifest);

}  // namespace moetap::plugin
