#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hooks/attention/found_attention.h"
#include "hooks/graph/method_graph.h"
#include "hooks/points/hook_point.h"
#include "hooks/points/hook_spec.h"
#include "hooks/points/skip_reason.h"
#include "hooks/routers/found_router.h"

namespace moetap::hooks {

/// A hook, and what stands there.
struct Site {
  HookPoint hook;
  const torch::jit::Node* anchor = nullptr;  // where it stands in the order of execution
  size_t place = 0;                          // in the list of its kind: MethodSites::routers, attentions
};

/// A method's graph and what was found in it. All lists are in order of execution.
struct MethodSites {
  std::unique_ptr<MethodGraph> graph;
  std::vector<FoundRouter> routers;  // one list a kind
  std::vector<FoundAttention> attentions;
  std::vector<SkippedNode> skipped;  // of all kinds
  std::vector<Site> sites;           // of all kinds; HookPoint::id counts over all methods
};

struct ModelSites {
  std::vector<MethodSites> methods;
  Discovery discovery;
};

/// Reads and decides: finds what can be hooked in every method that a host calls (see `entry_methods`; `methods` are
/// looked into in any case) and is of `kinds`, then applies the hook spec. The module is not changed; the graphs are
/// copies. Throws HookSpecError if the spec does not fit the model, MethodError if one of `methods` cannot be recorded.
ModelSites find_sites(const torch::jit::Module& module, const std::vector<std::string>& methods = {},
                      const HookSpec& spec = {}, HookKinds kinds = HookKinds::kRouters);

}  // namespace moetap::hooks
