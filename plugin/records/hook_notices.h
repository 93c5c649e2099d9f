#pragma once

#include <string>

namespace moetap::plugin {

/// The notice about a hook that stopped after a failure, by which it is also known later which hooks did.
inline std::string hook_failed_notice(const std::string& name) {
  return "hook \"" + name + "\" failed and records no more";
}

}  // namespace moetap::plugin
