#pragma once

#include <string>

#include "hooks/points/hook_point.h"

namespace moetap::hooks {

/// What a hook of any kind is known by, as it was found in the graph of a method.
struct FoundHook {
  std::string owner;      // path of the module that owns it; empty where the graph has lost its paths
  std::string layer;      // set by a hook spec; else empty, and given by name_hooks
  std::string component;  // the same

  /// The hook, without what is particular to its kind. `id` is left to the caller, and what is still empty then to
  /// name_hooks.
  HookPoint point(HookKind kind, const std::string& method) const {
    HookPoint hook;
    hook.kind = kind;
    hook.method = method;
    hook.name = owner;
    hook.layer = layer;
    hook.component = component;
    return hook;
  }
};

}  // namespace moetap::hooks
