#include "hooks/routers/router_flow.h"

#include <algorithm>
#include <limits>

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// A node in a loop is visited again when a carried value changes. More visits than these find nothing new.
constexpr int kMaxVisits = 3;

// The experts are the letter that the parameter brings into the result: "ed,bsd->ebs" has them first.
void place_einsum_experts(const MethodGraph& graph, const Projection& projection, Fact& seed) {
  const auto equation = graph.constant(projection.node->input(0));
  if (!equation.has_value() || !equation->isString()) return;
  std::string text = equation->toStringRef();
  std::erase(text, ' ');
  const size_t comma = text.find(','), arrow = text.find("->");
  if (comma == std::string::npos || arrow == std::string::npos || text.find('.') != std::string::npos) return;
  const auto operands = list_elements(projection.node->input(1));
  const bool parameter_first = !operands.empty() && operands[0] == projection.parameter;
  const std::string first = text.substr(0, comma), second = text.substr(comma + 1, arrow - comma - 1);
  const std::string& parameter = parameter_first ? first : second;
  const std::string& activation = parameter_first ? second : first;
  const std::string result = text.substr(arrow + 2);
  for (size_t place = 0; place < result.size(); ++place) {
    if (parameter.find(result[place]) == std::string::npos || activation.find(result[place]) != std::string::npos)
      continue;
    seed.rank = static_cast<int64_t>(result.size());
    seed.expert_dim = static_cast<int64_t>(place) - *seed.rank;
  }
}

}  // namespace

RouterFlow::RouterFlow(const MethodGraph& graph, const ValueOrigins& origins, KnownShapes& shapes,
                       const Projection& projection, std::optional<int64_t> num_experts, ChosenVectors vectors)
    : graph_(graph), origins_(origins), shapes_(shapes), projection_(projection), vectors_(vectors) {
  Fact seed;
  seed.role = Role::kScore;
  seed.base = seed.logits = projection_.node->output();
  seed.num_experts = num_experts;
  const std::string name = base_name(*projection_.node);
  seed.rank = shapes_.of(projection_.node->output()).rank;
  if (name.starts_with("conv") || name == "_convolution") {
    seed.expert_dim = seed.rank ? 1 - *seed.rank : 1;
  } else if (name == "einsum") {
    place_einsum_experts(graph, projection_, seed);
  }
  if (is_weight_first(projection_)) seed.expert_dim = -2;  // [experts, tokens]
  seed.logits_dim = seed.expert_dim;
  follow(projection_.node->output(), seed);
}

RouterFlow::RouterFlow(const MethodGraph& graph, const ValueOrigins& origins, KnownShapes& shapes, const HashIds& hash)
    : graph_(graph), origins_(origins), shapes_(shapes) {
  Fact seed;
  seed.role = Role::kIds;
  seed.base = hash.ids;
  seed.ids = {hash.ids};
  seed.picks = {0};
  seed.num_slots = hash.top_k;
  seed.num_experts = hash.num_experts;
  Pick pick{hash.ids->node(), seed, hash.top_k, std::nullopt, hash.ids};
  pick.foreign = true;
  picks_.push_back(pick);
  follow(hash.ids, seed);
}

const Fact* RouterFlow::fact(const jit::Value* value) const {
  auto found = facts_.find(value);
  return found == facts_.end() ? nullptr : &found->second;
}

void RouterFlow::follow(jit::Value* seed, Fact fact) {
  set(seed, std::move(fact));
  while (!queue_.empty()) {
    jit::Node* node = queue_.begin()->second;
    queue_.erase(queue_.begin());
    if (++visits_[node] <= kMaxVisits) visit(node);
  }
}

// Scores gathered by ids of the method's arguments: a router whose pick was made elsewhere.
void RouterFlow::follow_foreign_ids(jit::Node* node, const Fact& scores, jit::Value* ids) {
  for (const Pick& pick : picks_) {
    if (pick.node == node) return;
  }
  // The ids may have been reshaped or cast before: followed from the first such value, all their uses are seen.
  jit::Value* first = ids;
  while (op_kind(*first->node()) == OpKind::kCopy) first = first->node()->input(0);
  Pick pick{node, scores, std::nullopt, std::nullopt, first};
  pick.foreign = true;
  const int place = static_cast<int>(picks_.size());
  picks_.push_back(pick);
  Fact fact;
  fact.role = Role::kIds;
  fact.base = first;
  fact.ids = {first};
  fact.picks = {place};
  set(first, fact);
}

void RouterFlow::set(jit::Value* value, Fact fact) {
  if (!fact.aligned) fact.base = nullptr;
  auto [found, fresh] = facts_.try_emplace(value, fact);
  if (!fresh) {
    const Fact& known = found->second;
    if (known.role == fact.role && known.picks == fact.picks && known.base == fact.base &&
        known.rewritten == fact.rewritten && known.strays == fact.strays)
      return;
    found->second = std::move(fact);
  }
  wake_users(value);
}

void RouterFlow::wake_users(const jit::Value* value) {
  for (const auto& use : value->uses()) queue_[graph_.order(use.user)] = use.user;
}

void RouterFlow::event(EventKind kind, jit::Node* node, const Fact& fact) {
  // What was not followed then is known by now.
  if (!fact.rewritten && !fact.strays) {
    std::erase_if(events_, [&](const Event& earlier) {
      return earlier.node == node && (earlier.what.rewritten || earlier.what.strays);
    });
  }
  events_.push_back({kind, node, fact});
}

Fact RouterFlow::derived(const Fact& from, jit::Node* node, Role role) const {
  Fact fact = from;
  fact.role = role;
  fact.base = node->output(0);
  fact.parent = nullptr;
  fact.says = at::Tensor();
  return fact;
}

Fact RouterFlow::mask_of(const Fact& from, jit::Node* node) const {
  Fact mask = derived(from, node, Role::kMask);
  mask.aligned = true;
  mask.one_hot = mask.per_expert = false;
  return mask;
}

// Note [Logits are what selection reads]
// Until a scoring function is applied, or a pick, every operation along the experts' axis makes new logits, whatever
// its other operand is: noise, a mask, a temperature, another projection. What depends on a pick is no longer read by
// it and is left out.
void RouterFlow::change_scores(Fact& result, const Fact& from, jit::Value* output) const {
  if (!from.picks.empty() || !result.picks.empty() || from.score != nullptr || !from.scoring.empty()) return;
  result.logits = output;
  result.logits_dim = result.expert_dim;
}

// A flow ends where its scores, which have been picked from, come into those of another projection: a router that is
// given what the layer before computed. The result is the other's.
bool RouterFlow::ends_at(const jit::Node* node, const Fact& own, const jit::Value* partner) {
  if (own.role != Role::kScore || !own.picks.empty()) return false;
  if (partner == nullptr || !origins_.is_activation(partner)) return false;
  const bool ends = std::any_of(picks_.begin(), picks_.end(), [&](const Pick& pick) {
    return pick.source.role == Role::kScore && graph_.order(pick.node) < graph_.order(node);
  });
  if (ends && (own.threshold || is_made_of_picks(partner))) ends_at_own_picks_ = true;
  return ends;
}

// True for what arithmetic and indices have made of picked values: the threshold of a sparse softmax.
bool RouterFlow::is_made_of_picks(const jit::Value* value) const {
  std::vector<const jit::Value*> values = {value};
  std::unordered_set<const jit::Value*> seen;
  for (size_t i = 0; i < values.size() && i < 200; ++i) {
    const Fact* known = fact(values[i]);
    if (known != nullptr && !known->picks.empty()) return true;
    const jit::Node& node = *values[i]->node();
    const OpKind kind = op_kind(node);
    if (kind == OpKind::kContract || kind == OpKind::kMixOther || base_name(node) == "embedding") continue;
    for (const jit::Value* input : node.inputs()) {
      if (seen.insert(input).second) values.push_back(input);
    }
    for (const jit::Block* block : node.blocks()) {
      for (const jit::Value* output : block->outputs()) {
        if (seen.insert(output).second) values.push_back(output);
      }
    }
  }
  return false;
}

// Ancestors are looked for from the projection back, only as far as the value: what comes before is the whole model.
bool RouterFlow::computes_activation(const jit::Value* value) {
  const auto reach = [this](const jit::Value* ancestor) {
    if (!ancestors_.insert(ancestor).second) return;
    const jit::Node* node = ancestor->node();
    // What a parameter is passed from may stand anywhere before; what is inside a node, behind it.
    const bool parameter = node->kind() == jit::prim::Param;
    const jit::Node* last = node->blocks().empty() ? node : node->blocks().back()->return_node();
    unexplored_.emplace(parameter ? std::numeric_limits<int64_t>::max() : graph_.order(last), ancestor);
  };
  if (ancestors_.empty()) reach(projection_.activation);
  const int64_t place = graph_.order(value->node());
  while (!unexplored_.empty() && unexplored_.top().first >= place) {
    const jit::Value* current = unexplored_.top().second;
    unexplored_.pop();
    const jit::Node* node = current->node();
    if (node->kind() == jit::prim::Param) {
      if (const jit::Value* outer = graph_.outer_of(current)) reach(outer);
      if (const jit::Node* owner = node->owningBlock()->owningNode()) {
        for (const jit::Value* input : owner->inputs()) reach(input);
      }
      continue;
    }
    for (const jit::Value* input : node->inputs()) reach(input);
    for (const jit::Block* block : node->blocks()) {
      for (const jit::Value* output : block->outputs()) reach(output);
    }
  }
  return ancestors_.contains(value);
}

bool RouterFlow::precedes_projection(const jit::Value* value) {
  if (projection_.activation == nullptr) return false;
  // A view of a value from before the projection counts as one, too.
  while (!computes_activation(value)) {
    const OpKind kind = op_kind(*value->node());
    const bool view = kind == OpKind::kCopy || kind == OpKind::kReshape || kind == OpKind::kMoveAxis ||
                      kind == OpKind::kRepeat || kind == OpKind::kSlice;
    if (!view || value->node()->inputs().empty()) return false;
    value = value->node()->input(0);
  }
  return true;
}

}  // namespace moetap::hooks
