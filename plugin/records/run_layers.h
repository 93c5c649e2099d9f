#pragma once

#include "plugin/records/layer_table.h"

namespace moetap::plugin {

/// The tables of a run's layers, one a kind of hook.
struct RunLayers {
  const LayerTable& routers;
  const LayerTable& attention;
};

}  // namespace moetap::plugin
