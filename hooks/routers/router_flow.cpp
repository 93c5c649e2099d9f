#include "hooks/routers/router_flow.h"

#include <algorithm>
#include <limits>

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// A node in a loop is visited again when a carried value changes. More visits than these find nothing new.
constexpr int kMaxVisits = 3;

template <typename T>
void append_unique(std::vector<T>& into, const std::vector<T>& from) {
  for (const T& item : from) {
    if (std::find(into.begin(), into.end(), item) == into.end()) into.push_back(item);
  }
}

}  // namespace

std::vector<jit::Value*> list_elements(jit::Value* value) {
  jit::Node* node = value->node();
  if (node->kind() != jit::prim::ListConstruct) return {value};
  std::vector<jit::Value*> elements(node->inputs().begin(), node->inputs().end());
  for (const auto& use : value->uses()) {
    if (use.user->kind() == jit::aten::append && use.offset == 0) elements.push_back(use.user->input(1));
  }
  return elements;
}

bool grows_in_loop(const jit::Value* list) {
  return std::any_of(list->uses().begin(), list->uses().end(), [&](const jit::Use& use) {
    return use.user->kind() == jit::aten::append && use.user->owningBlock() != list->node()->owningBlock();
  });
}

namespace {

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

bool match_hash_ids(jit::Node* node, const MethodGraph& graph, const ValueOrigins& origins, HashIds& hash) {
  if (node->outputs().size() != 1 || origins.of(node->output()) != Origin::kInput) return false;
  const std::string name = base_name(*node);
  if (name == "remainder" || name == "fmod") {
    hash = {node->output(), std::nullopt, 1, false};
    if (const auto size = graph.constant(node->input(1)); size.has_value()) {
      if (size->isInt()) hash.num_experts = size->toInt();
      if (size->isTensor() && size->toTensor().numel() == 1) hash.num_experts = size->toTensor().item().toLong();
    }
    return true;
  }
  if (op_kind(*node) != OpKind::kIndex) return false;
  const auto table = graph.constant(node->input(0));
  if (!table.has_value() || !table->isTensor() || !table->toTensor().defined()) return false;
  const at::Tensor ids = table->toTensor();
  if (at::isFloatingType(ids.scalar_type()) && ids.dim() >= 3) {  // an argument that chooses experts itself
    const auto indices = list_elements(node->input(name == "index_select" ? 2 : 1));
    if (indices.size() != 1 || origins.of(indices[0]) != Origin::kInput) return false;
    jit::Value* index = indices[0];
    while (op_kind(*index->node()) == OpKind::kCopy) index = index->node()->input(0);
    hash = {index, ids.size(0), 1, false};
    return true;
  }
  if (!at::isIntegralType(ids.scalar_type(), false) || ids.dim() < 1 || ids.dim() > 2 || ids.numel() == 0) return false;
  hash = {node->output(), ids.max().item().toLong() + 1, ids.dim() == 2 ? ids.size(1) : 1, ids.dim() == 2};
  return true;
}

RouterFlow::RouterFlow(const MethodGraph& graph, const ValueOrigins& origins, KnownShapes& shapes,
                       const Projection& projection, std::optional<int64_t> num_experts)
    : graph_(graph), origins_(origins), shapes_(shapes), projection_(projection) {
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
        known.rewritten == fact.rewritten)
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
  if (!fact.rewritten) {
    std::erase_if(events_, [&](const Event& earlier) { return earlier.node == node && earlier.what.rewritten; });
  }
  events_.push_back({kind, node, fact});
}

Fact RouterFlow::derived(const Fact& from, jit::Node* node, Role role) const {
  Fact fact = from;
  fact.role = role;
  fact.base = node->output(0);
  fact.parent = nullptr;
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

jit::Value* RouterFlow::returned_as(const jit::Value* value) const {
  auto found = returned_.find(value);
  return found == returned_.end() ? nullptr : found->second;
}

void RouterFlow::pass(const jit::Value* from, jit::Value* to) {
  if (const Fact* found = fact(from)) {
    const Fact passed = *found;  // `set` may move what `found` points to
    set(to, passed);
  }
}

// Passes the fact of a tuple's element on, through the arms of a branch and out of a fork. False if nothing is known of
// the tuple.
bool RouterFlow::spread(jit::Value* tuple, size_t place, jit::Value* to) {
  const jit::Node* node = tuple->node();
  if (node->kind() == jit::prim::TupleConstruct) {
    if (place < node->inputs().size()) pass(node->input(place), to);
    return true;
  }
  if (node->kind() == jit::aten::wait) {
    auto subgraph = fork_subgraph(node->input(0)->node());
    if (subgraph == nullptr) return false;
    jit::Value* inner = subgraph->outputs()[0];
    if (inner->node()->kind() == jit::prim::TupleConstruct && place < inner->node()->inputs().size()) {
      returned_[inner->node()->input(place)] = to;
    }
    return spread(inner, place, to);
  }
  if (node->kind() == jit::prim::If) {
    for (const jit::Block* arm : node->blocks()) {
      const jit::Node* made = arm->outputs()[tuple->offset()]->node();
      if (made->kind() != jit::prim::TupleConstruct || place >= made->inputs().size()) continue;
      if (const Fact* found = fact(made->input(place))) set(to, leaving(*found, const_cast<jit::Node*>(node), to));
    }
    return true;
  }
  return false;
}

// The fact, outside of a branch or a loop, of a value that is returned as `output`.
Fact RouterFlow::leaving(Fact outside, jit::Node* owner, jit::Value* output) const {
  if (outside.aligned) {
    if (outside.score == outside.base) outside.score = output;
    if (outside.logits == outside.base) outside.logits = output;
    outside.base = output;
  }
  if (owner->kind() == jit::prim::If) {
    // If the other arm returns a value of the same role, the output is either of them.
    if (const Fact* other = fact(output); other != nullptr && other->role == outside.role) {
      outside.picks.insert(other->picks.begin(), other->picks.end());
      if (!visible_from(outside.logits, owner)) outside.logits = other->logits;
      append_unique(outside.ids, other->ids);
      outside.masked = outside.masked && other->masked;
      outside.unsure_slots = outside.unsure_slots || other->unsure_slots || outside.num_slots != other->num_slots;
    }
  }
  if (!visible_from(outside.logits, owner)) outside.logits = nullptr;
  if (!visible_from(outside.score, owner)) outside.score = nullptr;
  auto hidden = [&](jit::Value* value) { return !visible_from(value, owner); };
  std::erase_if(outside.ids, hidden);
  std::erase_if(outside.weights, hidden);
  if (outside.role == Role::kIds && outside.aligned) outside.ids = {output};
  if (outside.role == Role::kSlot && outside.aligned) outside.weights = {output};
  return outside;
}

void RouterFlow::visit_return(jit::Node* node) {
  jit::Node* owner = node->owningBlock()->owningNode();
  jit::Node* fork = owner == nullptr ? graph_.fork_of(node->owningGraph()) : nullptr;
  if (owner == nullptr && fork == nullptr) return;  // the method's result
  if (fork != nullptr) {
    // A fork's result keeps the fact that it has inside, so that the hook may be inserted there.
    if (fact(node->input(0)) != nullptr) returned_[node->input(0)] = fork->output();
    pass(node->input(0), fork->output());
    wake_users(fork->output());
    return;
  }
  const bool loop = owner->kind() == jit::prim::Loop;
  const size_t first = loop ? 1 : 0;
  for (size_t i = first; i < node->inputs().size() && i - first < owner->outputs().size(); ++i) {
    jit::Value* output = owner->output(i - first);
    const Fact* found = fact(node->input(i));
    if (found == nullptr) {
      if (node->input(i)->node()->kind() == jit::prim::TupleConstruct) wake_users(output);
      continue;
    }
    const Fact outside = leaving(*found, owner, output);
    set(output, outside);
    if (loop) set(node->owningBlock()->inputs()[i], outside);
  }
}

// Tuples, lists, loops, forks: values are passed on, not computed.
void RouterFlow::visit_structure(jit::Node* node) {
  const auto kind = node->kind();
  auto element = [&](const jit::Node* made, const jit::Value* index) -> const jit::Value* {
    const auto place = graph_.constant_int(index);
    const int64_t size = static_cast<int64_t>(made->inputs().size());
    if (!place.has_value() || *place < -size || *place >= size) return nullptr;
    return made->input(*place < 0 ? *place + size : *place);
  };
  if (kind == jit::prim::Loop) {
    for (size_t i = 2; i < node->inputs().size(); ++i) pass(node->input(i), node->blocks()[0]->inputs()[i - 1]);
  } else if (auto subgraph = fork_subgraph(node)) {
    for (size_t i = 0; i < node->inputs().size(); ++i) pass(node->input(i), subgraph->inputs()[i]);
  } else if (kind == jit::aten::wait) {
    pass(node->input(0), node->output());
    if (const jit::Value* inner = node->input(0); returned_.size() && fact(inner) != nullptr) {
      for (auto& [from, to] : returned_) {
        if (to == inner) to = node->output();
      }
    }
    wake_users(node->output());
  } else if (kind == jit::prim::unchecked_cast || kind == jit::aten::_unwrap_optional) {
    pass(node->input(0), node->output());
  } else if (kind == jit::aten::append) {
    wake_users(node->input(0));
  } else if (kind == jit::prim::TupleConstruct || kind == jit::prim::ListConstruct ||
             kind == jit::prim::DictConstruct) {
    wake_users(node->output());
  } else if (kind == jit::prim::TupleUnpack) {
    for (size_t i = 0; i < node->outputs().size(); ++i) spread(node->input(), i, node->output(i));
  } else if (kind == jit::prim::TupleIndex) {
    const auto place = graph_.constant_int(node->input(1));
    const int64_t size = static_cast<int64_t>(node->input(0)->type()->containedTypes().size());
    if (place.has_value() && *place >= -size && *place < size) {
      spread(node->input(0), *place < 0 ? *place + size : *place, node->output());
    }
  } else if (kind == jit::prim::ListUnpack) {
    const jit::Node* made = node->input()->node();
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      const bool listed = made->kind() == jit::prim::ListConstruct && i < made->inputs().size();
      if (listed) {
        pass(made->input(i), node->output(i));
      } else if (const Fact* found = fact(node->input())) {
        Fact piece = *found;
        if (piece.role == Role::kIds || piece.role == Role::kSlot) piece.place = static_cast<int>(i);
        if (piece.role == Role::kScore && piece.picks.empty()) {
          piece.part = static_cast<int>(i);
          piece.num_experts = piece.expert_dim == -1 ? shapes_.of(node->output(i)).last : std::nullopt;
          if (piece.score == nullptr) {
            piece.logits = node->output(i);
            piece.base = node->output(i);
          }
        }
        set(node->output(i), piece);
      }
    }
  } else if (kind == jit::aten::__getitem__) {
    const jit::Node* made = node->input(0)->node();
    if (made->kind() == jit::prim::DictConstruct) {
      const auto key = graph_.constant(node->input(1));
      for (size_t i = 0; key.has_value() && i + 1 < made->inputs().size(); i += 2) {
        const auto name = graph_.constant(made->input(i));
        if (name.has_value() && name->equals(*key).toBool()) pass(made->input(i + 1), node->output());
      }
    } else if (made->kind() == jit::prim::ListConstruct) {
      const jit::Value* found = element(made, node->input(1));
      if (found != nullptr && !grows_in_loop(node->input(0))) {
        pass(found, node->output());
      } else if (const auto elements = list_elements(node->input(0)); !elements.empty()) {
        if (const Fact* any = fact(elements[0])) {  // one of those that were appended
          Fact part = *any;
          lose_alignment(part);
          set(node->output(), part);
        }
      }
    } else if (const Fact* found = fact(node->input(0))) {
      Fact piece = *found;
      const bool slots = piece.role == Role::kIds || piece.role == Role::kSlot;
      if (slots && op_kind(*made) == OpKind::kSplit && is_along_slots(made->input(0), piece, made->inputs().back())) {
        const auto place = graph_.constant_int(node->input(1));
        piece.place = place && *place >= 0 ? static_cast<int>(*place) : -1;
        piece.place_in_run = piece.place < 0 ? node->input(1) : nullptr;
      }
      set(node->output(), piece);
    }
  }
}

}  // namespace moetap::hooks
