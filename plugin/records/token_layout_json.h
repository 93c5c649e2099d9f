#pragma once

#include <nlohmann/json.hpp>

#include "hooks/points/token_layout.h"

namespace moetap::plugin {

/// In the text inside an instrumented model; null: the layout is not known.
nlohmann::ordered_json token_layout_to_json(const hooks::TokenLayout& layout);

/// Throws std::exception for what `token_layout_to_json` does not write.
hooks::TokenLayout token_layout_from_json(const nlohmann::json& json);

}  // namespace moetap::plugin
