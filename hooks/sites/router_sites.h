#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hooks/graph/method_graph.h"
#include "hooks/points/hook_point.h"
#include "hooks/points/hook_spec.h"
#include "hooks/routers/router_decision.h"

namespace moetap::hooks {

/// Something that looked like a router and was not taken for one.
struct SkippedNode {
  const torch::jit::Node* node = nullptr;
  const torch::jit::Node* source = nullptr;  // the projection whose scores it picks from; else the node itself
  std::string reason;
};

/// A method's graph and the routers found in it, in order of execution.
struct MethodSites {
  std::unique_ptr<MethodGraph> graph;
  std::vector<RouterCapture> routers;
  std::vector<SkippedNode> skipped;
  std::vector<HookPoint> hooks;  // one a router; `id` counts over all methods
};

struct ModelSites {
  std::vector<MethodSites> methods;
  Discovery discovery;
};

/// Reads and decides: finds the routers of every method that a host calls (see `entry_methods`; `methods` are looked
/// into besides), then lets the hook spec have its say. The module is not changed; the graphs are copies. Throws
/// HookSpecError if the spec does not fit the model.
ModelSites find_router_sites(const torch::jit::Module& module, const std::vector<std::string>& methods = {},
                             const HookSpec& spec = {});

}  // namespace moetap::hooks
