#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hooks/hook_point.h"
#include "hooks/method_graph.h"
#include "hooks/router_decision.h"

namespace moetap::hooks {

/// A method's graph and the routers found in it, in order of execution.
struct MethodSites {
  std::unique_ptr<MethodGraph> graph;
  std::vector<RouterCapture> routers;
  std::vector<HookPoint> hooks;  // one a router; `id` counts over all methods
};

struct ModelSites {
  std::vector<MethodSites> methods;
  Discovery discovery;
};

/// Reads and decides: finds the routers of every method of a module. The module is not changed; the graphs are copies.
/// `methods` are looked into besides those that no other method calls.
ModelSites find_router_sites(const torch::jit::Module& module, const std::vector<std::string>& methods = {});

}  // namespace moetap::hooks
