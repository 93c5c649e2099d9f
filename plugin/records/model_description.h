#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hooks/points/hook_point.h"

namespace torch::jit {
struct Module;
}

namespace moetap::plugin {

/// A model as it was described to `hooks::instrument`; parsed once from the text that `moetap::begin` carries.
struct ModelDescription {
  std::string instance;                 // unique for each call of instrument: which twin is this
  std::string model_file;               // path as given, "" when attached in memory
  std::string sha256;                   // of the file, "" when attached in memory
  std::string identity;                 // same for twins of one model: the file's SHA-256, else of its routers
  std::vector<hooks::HookPoint> hooks;  // hooks[i].id == i
  std::vector<hooks::SkippedSite> skipped;
  std::map<std::string, std::vector<std::string>> method_arguments;  // Tensor and Tensor? arguments, in order
};

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

/// The text that `moetap::begin` carries. Starts with the instance, so that `instance_of` needs not read the rest.
std::string to_text(const ModelDescription& model);

/// Throws std::invalid_argument with one line that says what is wrong.
ModelDescription model_description_from_text(const std::string& text);

/// The instance of a text that `to_text` wrote, without parsing it; empty if it is none.
std::string_view instance_of(std::string_view text);

}  // namespace moetap::plugin
