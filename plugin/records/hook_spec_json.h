#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "hooks/points/hook_spec.h"

namespace moetap::plugin {

/// Reads a hook spec: a JSON array of entries, as docs/hook_specs.md has them. `source` names it in messages. Throws
/// std::invalid_argument with one line that names the entry and the field: an unknown field, a wrong type, a pattern
/// that is no regular expression, fields that exclude each other, an entry that says nothing.
hooks::HookSpec hook_spec_from_json(const nlohmann::json& array, const std::string& source);

/// Reads a hook spec from a file. Throws as above, also for a file that cannot be read or is not JSON.
hooks::HookSpec hook_spec_from_file(const std::string& path);

/// The hook spec of the configuration key `hooks`: null (an empty spec), an array, or the path of a file with an array.
hooks::HookSpec hook_spec_from_config(const nlohmann::json& hooks);

}  // namespace moetap::plugin
