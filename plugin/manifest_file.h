#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "plugin/config.h"
#include "plugin/counters.h"
#include "plugin/layer_table.h"
#include "plugin/log_entry.h"
#include "plugin/model_description.h"
#include "plugin/process_rank.h"
#include "plugin/record_sink.h"

namespace moetap::plugin {

/// What `manifest.json` tells about a run.
struct Manifest {
  const Config& config;
  const std::vector<std::shared_ptr<const ModelDescription>>& models;
  const LayerTable& layers;
  ProcessRank rank;
  const Counters& counters;
  const LogLosses& losses;
  RunTimes times;
};

/// Throws std::runtime_error if the file cannot be written.
void write_manifest_file(const std::string& path, const Manifest& manifest);

}  // namespace moetap::plugin
