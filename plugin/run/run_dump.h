#pragma once

#include <string>

#include "plugin/run/run_reader.h"

namespace moetap::plugin {

/// True if a rank of the run has a shard of the component in its dump; "": of any component. Opens no file.
bool has_dump(const RunReader& run, const std::string& component = "");

}  // namespace moetap::plugin
