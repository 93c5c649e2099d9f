#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hooks/points/hook_point.h"
#include "plugin/records/model_description.h"

namespace torch::jit {
struct Module;
}

namespace moetap::plugin {

/// A hook as `moetap inspect --json` and the manifest print it: id, layer, name, kind, method, component, ...
nlohmann::ordered_json hook_to_json(const hooks::HookPoint& hook);

/// What `moetap inspect --json` prints. `model` is the path as given.
nlohmann::ordered_json inspect_json(const hooks::Discovery& discovery, const std::string& model);

/// The arrays "hooks" and "skipped" of the above.
nlohmann::ordered_json hooks_to_json(const std::vector<hooks::HookPoint>& hooks);
nlohmann::ordered_json skipped_to_json(const std::vector<hooks::SkippedSite>& skipped);

/// 128 random bits, 32 hexadecimal digits. Thread-safe.
std::string random_instance();

/// Describes a module about to be instrumented: a new instance, and the arguments of each of its methods and of those
/// of submodules that have hooks.
ModelDescription describe_model(const torch::jit::Module& module, const hooks::Discovery& discovery,
                                const std::string& model_file, const std::string& sha256);

/// The text that `moetap::begin` carries. It starts with the instance, so that `instance_of` need not read the rest.
std::string to_text(const ModelDescription& model);

/// Reads what `to_text` wrote. Throws std::invalid_argument with one line that says what is wrong.
ModelDescription model_description_from_text(const std::string& text);

/// The instance of a text that `to_text` wrote, found without parsing; empty if the text does not start with one. A
/// view into `text`.
std::string_view instance_of(std::string_view text);

}  // namespace moetap::plugin
