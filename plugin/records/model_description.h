#pragma once

#include <map>
#include <string>
#include <vector>

#include "hooks/points/hook_point.h"

namespace moetap::plugin {

/// A model as it was when it was instrumented; parsed once from the text that the operator `moetap::begin` carries.
struct ModelDescription {
  std::string instance;    // unique for each call of instrument: tells twins apart
  std::string model_file;  // path as given, "" when attached in memory
  std::string sha256;      // of the file, "" when attached in memory
  std::string identity;    // same for twins of one model: the file's SHA-256; without a file, a hash of its routers
  std::vector<hooks::HookPoint> hooks;  // hooks[i].id == i
  std::vector<hooks::SkippedSite> skipped;
  std::map<std::string, std::vector<std::string>> method_arguments;  // Tensor and Tensor? arguments, in order
};

}  // namespace moetap::plugin
