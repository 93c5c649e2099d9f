#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

/// What a router hook captures: values of the method graph, and how they are to be read (operator_schemas.h).
struct RouterCapture {
  Projection projection;  // none for hash routing
  std::string owner;      // path of the module that owns the projection; of the experts where there is none
  std::string layer;      // set by a hook spec; else empty, and given by the rules
  std::string component;  // the same
  torch::jit::Value* logits = nullptr;
  torch::jit::Value* scores = nullptr;
  std::vector<torch::jit::Value*> selected;
  std::vector<torch::jit::Value*> weights;
  int64_t expert_dim = -1;  // of the tensors as the hook reports them
  int64_t logits_dim = -1;  // where the experts lie in `logits` and `scores` themselves
  int64_t scores_dim = -1;
  std::string form;  // "slots", "dense", "variable", "expert_choice"
  std::string scoring;
  std::optional<int64_t> num_experts;
  std::optional<int64_t> top_k;
  bool selects_all = false;              // no ids: every token gets every expert, by `weights`
  bool add_slot_dim = false;             // the ids have no dimension for their one slot
  std::vector<torch::jit::Node*> users;  // of a router without a projection: where its ids choose experts
  std::vector<torch::jit::Node*> picks;  // all picks of the router, the ones of groups included

  /// Where the router stands in the order of execution.
  const torch::jit::Node* anchor() const {
    if (projection.node != nullptr) return projection.node;
    return selected.empty() ? weights[0]->node() : selected[0]->node();
  }
};

/// Why a projection whose scores are picked from is no router.
struct RouterRefusal {
  torch::jit::Node* node;
  std::string reason;
};

struct RouterDecision {
  std::optional<RouterCapture> capture;
  std::optional<RouterRefusal> refusal;  // neither: nothing about the projection looks like a router
};

RouterDecision decide(const MethodGraph& graph, const RouterFlow& flow);

/// The same for ids of the method's arguments: captured where experts are compared with or their parameters chosen.
RouterDecision decide_hash(const MethodGraph& graph, const RouterFlow& flow, const HashIds& hash);

}  // namespace moetap::hooks
