#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hooks/graph/value_origins.h"
#include "hooks/points/found_hook.h"

namespace moetap::hooks {

/// A router of a method graph: the values that its operator gets, and how they are to be read (operator_schemas.h).
/// Its owner is the module that owns the projection; that of the experts where there is none.
struct FoundRouter : FoundHook {
  Projection projection;  // none for hash routing
  torch::jit::Value* logits = nullptr;
  torch::jit::Value* scores = nullptr;
  bool scores_of_other_logits = false;  // the selection reads masked or noisy ones: `scores` are not made of `logits`
  torch::jit::Value* choice = nullptr;  // what the pick reads that gives `selected`; null: not known
  bool claims_scaled_scores = false;    // a hook spec names ids or weights, and `scoring` as the rule between them
  std::vector<torch::jit::Value*> selected;
  std::vector<torch::jit::Value*> weights;
  int64_t expert_dim = -1;  // of the tensors as the operator gets them
  int64_t logits_dim = -1;  // where the experts lie in `logits` and `scores` themselves
  int64_t scores_dim = -1;
  int64_t selected_dim = -1;  // where the slots lie in each of `selected`
  int64_t weights_dim = -1;   // where the slots or experts lie in each of `weights`
  std::string form;           // see operator_schemas.h
  std::string scoring;
  std::optional<int64_t> num_experts;
  std::optional<int64_t> top_k;
  int64_t null_experts = 0;  // ids that stand for no routed expert, see Note [Ids beyond the experts]
  // Where `selected` holds ids of shared experts beside the slots: the slots alone, and whether they stand behind.
  torch::jit::Value* slots_alone = nullptr;
  bool slots_behind = false;
  bool weights_have_shared = false;            // so do the weights
  torch::jit::Value* weights_order = nullptr;  // flat weights stand in this order of all slots
  bool selects_all = false;                    // no ids: every token gets every expert, by `weights`
  bool weights_have_places = false;            // weights [.., expert, place in its queue], to be summed over the places
  bool kept_has_places = false;                // mask [.., experts, places], to be summed over the places
  bool unused_where_zero = false;              // expert choice: a choice with the weight 0 is none
  torch::jit::Value* kept = nullptr;  // mask [.., experts]: where the weights do not tell that a token is dropped
  // The weights of the other arms, where each arm of a branch makes its own and applies them there.
  std::vector<torch::jit::Value*> weights_of_other_arms;
  bool add_slot_dim = false;             // the ids have no dimension for their one slot
  std::vector<torch::jit::Node*> users;  // of a router without a projection: where its ids choose experts
  std::vector<torch::jit::Node*> picks;  // all picks of the router, those inside groups included

  /// Where the router stands in the order of execution.
  const torch::jit::Node* anchor() const {
    if (projection.node != nullptr) return projection.node;
    return selected.empty() ? weights[0]->node() : selected[0]->node();
  }
};

}  // namespace moetap::hooks
