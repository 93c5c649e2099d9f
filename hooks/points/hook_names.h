#pragma once

#include <string>
#include <vector>

#include "hooks/points/hook_point.h"

namespace moetap::hooks {

/// Fills `component`, `layer` and the `#1`, `#2` of repeated names of hooks that have `name`, `method` and `kind`, in
/// order of execution. Components and layers that are set (by a hook spec) stay; throws HookSpecError where two of them
/// set the same layer.
void name_hooks(std::vector<HookPoint>& hooks);

/// Components and layers name files and JSON keys: letters, digits, _ and -; decimal digits or "mm_projector".
bool is_component_name(const std::string& text);
bool is_layer_id(const std::string& text);

}  // namespace moetap::hooks
