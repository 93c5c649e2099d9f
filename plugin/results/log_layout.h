#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "plugin/records/config.h"
#include "plugin/records/run_layers.h"

namespace moetap::plugin {

/// How the run's layers appear in the log. A layer is its place in the LayerTable of the routers. Keeps references to
/// `config` and what `layers` holds.
class LogLayout {
 public:
  /// Throws std::runtime_error if `config.log_component` is no component of the run.
  LogLayout(const Config& config, const RunLayers& layers);

  const Config& config() const { return config_; }
  const LayerTable& layers() const { return layers_; }
  const LayerTable& attention_layers() const { return attention_layers_; }
  const std::map<std::string, std::vector<size_t>>& components() const { return components_; }

  /// The component whose layers fill `logs_metrics_vision`; if no router ran, the configuration's key (may be "").
  const std::string& log_component() const { return log_component_; }
  /// The layer's key in `logs_metrics_vision`; empty: the layer is not there.
  const std::optional<std::string>& key(size_t layer) const { return keys_[layer]; }
  /// Layers that have a key: those of the log's component, then mm_projector.
  const std::vector<size_t>& keyed_layers() const { return keyed_layers_; }
  /// Why LibMoE's readers drop samples of this run, one line; empty: they do not.
  std::string readers_notice() const;

 private:
  std::string choose_component() const;

  const Config& config_;
  const LayerTable& layers_;  // of the routers
  const LayerTable& attention_layers_;
  std::map<std::string, std::vector<size_t>> components_;
  std::string log_component_;
  std::vector<std::optional<std::string>> keys_;  // by layer
  std::vector<size_t> keyed_layers_;
};

}  // namespace moetap::plugin
