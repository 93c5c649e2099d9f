#include "hooks/tokens/token_flow.h"

#include <algorithm>
#include <set>

#include "hooks/graph/op_traits.h"
#include "hooks/tokens/axis_transfer.h"
#include "hooks/tokens/token_packing.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr int64_t kRankOfIds = 2, kRankOfHiddenStates = 3;
constexpr int kMaxStarts = 6;

bool is_tensor_argument(const jit::Value* value) {
  static const auto optional = c10::OptionalType::create(c10::TensorType::get());
  return value->type()->isSubtypeOf(*optional);
}

// True if the argument is projected or normalised, perhaps after it was viewed, scaled or added to a parameter: then it
// is a hidden state. A mask that attention takes is none.
bool is_hidden_state(const jit::Value* argument, const ValueOrigins& origins) {
  std::vector<const jit::Value*> open = {argument};
  std::set<const jit::Value*> seen = {argument};
  const auto follow = [&](const jit::Value* value) {
    if (seen.insert(value).second) open.push_back(value);
  };
  while (!open.empty()) {
    const jit::Value* value = open.back();
    open.pop_back();
    for (const jit::Use& use : value->uses()) {
      const jit::Node* node = use.user;
      if (node->kind() == jit::prim::Return) {
        const jit::Node* owner = node->owningBlock()->owningNode();
        if (owner != nullptr && owner->kind() == jit::prim::If) follow(owner->output(use.offset));
        continue;
      }
      if (const auto subgraph = fork_subgraph(node)) {
        follow(subgraph->inputs()[use.offset]);
        continue;
      }
      switch (op_kind(*node)) {
        case OpKind::kMixOther:
          if (base_name(*node) != "scaled_dot_product_attention" || use.offset < 3) return true;
          break;
        case OpKind::kContract:
          for (const jit::Value* operand : node->inputs()) {
            if (origins.is_parameter(operand)) return true;
          }
          break;
        case OpKind::kCopy:
        case OpKind::kReshape:
        case OpKind::kMoveAxis:
          if (use.offset == 0) follow(node->output(0));
          break;
        case OpKind::kElementwise:
        case OpKind::kMultiply: {
          bool beside_states = false;
          for (const jit::Value* operand : node->inputs()) {
            beside_states = beside_states || (operand != value && is_tensor(operand) && origins.is_activation(operand));
          }
          if (!beside_states) follow(node->output(0));
          break;
        }
        default:
          break;
      }
    }
  }
  return false;
}

}  // namespace

TokenFlow::TokenFlow(const MethodGraph& graph, const ValueOrigins& origins) : graph_(graph), origins_(origins) {
  for (const jit::Value* input : graph.graph()->inputs().slice(1)) {
    if (!is_tensor_argument(input)) continue;
    arguments_.push_back(input);
    is_state_.push_back(is_hidden_state(input, origins));
    ranks_.push_back(is_state_.back() ? kRankOfHiddenStates : kRankOfIds);
  }
  grown_along_.resize(arguments_.size(), -1);
  find_written_parts();
  for (int i = 0; i < kMaxStarts; ++i) {
    ranks_changed_ = false;
    run();
    if (!ranks_changed_) break;
  }
}

const AxisFact& TokenFlow::of(const jit::Value* value) const {
  static const AxisFact unknown;
  const auto found = facts_.find(value);
  return found == facts_.end() ? unknown : found->second;
}

void TokenFlow::start() {
  symbols_ = AxisSymbols();
  facts_.clear();
  looked_up_.clear();
  for (const jit::Value* input : graph_.graph()->inputs()) put(input, unknown_fact());
  for (size_t i = 0; i < arguments_.size(); ++i) {
    std::vector<Axis> axes;
    const auto argument = static_cast<int64_t>(i);
    const bool is_states = is_state_[i] && ranks_[i] == kRankOfHiddenStates;
    for (int64_t dim = 0; dim < ranks_[i]; ++dim) {
      const bool beside_grown = grown_along_[i] >= 0 && dim > 0 && dim != grown_along_[i];
      axes.push_back(symbols_.of_argument(argument, dim, beside_grown || (is_states && dim == ranks_[i] - 1)));
    }
    for (const WrittenPart& part : written_parts_) {
      if (part.argument != arguments_[i]) continue;
      ranks_[i] = std::max(ranks_[i], part.dim + 1);
      axes.resize(static_cast<size_t>(ranks_[i]));
      mark_written(axes, part, part.argument);
    }
    facts_[arguments_[i]] = tensor_fact(std::move(axes), argument);
  }
}

void TokenFlow::run() {
  start();
  bool changed = true;
  // Two passes reach values that are carried around a loop once. What still changes then is not known.
  for (int pass = 0; changed && pass < 4; ++pass) {
    changed = false;
    for (jit::Node* node : graph_.nodes()) changed |= visit(node);
    if (ranks_changed_) return;
  }
}

bool TokenFlow::put(const jit::Value* value, AxisFact fact) {
  AxisFact& current = facts_[value];
  if (current == fact) return false;
  current = std::move(fact);
  return true;
}

void TokenFlow::look_up(int64_t argument) {
  if (std::find(looked_up_.begin(), looked_up_.end(), argument) == looked_up_.end()) looked_up_.push_back(argument);
}

void TokenFlow::require_rank(const jit::Value* value, int64_t rank, bool at_least) {
  const AxisFact& fact = of(value);
  if (!fact.axes || fact.rank_of < 0) return;
  const auto known = static_cast<int64_t>(fact.axes->size());
  if (known == rank || (at_least && known > rank)) return;
  // Several operators may ask in one run: each of them saw the same.
  int64_t& assumed = ranks_[static_cast<size_t>(fact.rank_of)];
  const AxisFact& argument = of(arguments_[static_cast<size_t>(fact.rank_of)]);
  const int64_t seen = argument.axes ? static_cast<int64_t>(argument.axes->size()) : assumed;
  const int64_t wanted = seen + rank - known;
  if (wanted < 1 || wanted == assumed || (at_least && wanted < assumed)) return;
  assumed = wanted;
  ranks_changed_ = true;
}

bool TokenFlow::may_be_one_a_sample(int64_t argument) const {
  if (argument < 0) return false;
  const auto place = static_cast<size_t>(argument);
  return !is_state_[place] && ranks_[place] == kRankOfIds && grown_along_[place] < 0;
}

void TokenFlow::grows_along(const jit::Value* value, int64_t dim) {
  const AxisFact& fact = of(value);
  if (!fact.axes || fact.rank_of < 0 || grown_along_[static_cast<size_t>(fact.rank_of)] >= 0) return;
  grown_along_[static_cast<size_t>(fact.rank_of)] = dim;
  ranks_changed_ = true;
}

bool TokenFlow::is_dead(const jit::Block* block) const {
  return std::any_of(block->nodes().begin(), block->nodes().end(),
                     [](const jit::Node* node) { return node->kind() == jit::prim::RaiseException; });
}

AxisFact TokenFlow::join(const AxisFact& a, const AxisFact& b, const jit::Value* value) {
  if (!a.reached || a == b) return b;
  if (!b.reached) return a;
  AxisFact joined = unknown_fact();
  if (a.axes && b.axes && a.axes->size() == b.axes->size()) {
    joined.axes.emplace();
    for (size_t i = 0; i < a.axes->size(); ++i) {
      const Axis &first = (*a.axes)[i], &second = (*b.axes)[i];
      const bool one_is_broadcast = first.empty() != second.empty();
      const Axis met = one_is_broadcast ? Axis() : symbols_.meet(first, second);
      const bool same = !one_is_broadcast && first.size() == second.size() &&
                        std::equal(first.begin(), first.end(), second.begin(),
                                   [&](const Factor& x, const Factor& y) { return symbols_.same_class(x, y); });
      joined.axes->push_back(same ? met : symbols_.fresh(value, static_cast<int64_t>(i)));
    }
    if (a.rank_of == b.rank_of) joined.rank_of = a.rank_of;
  }
  if (a.number && a.number == b.number) joined.number = a.number;
  if (a.elements && b.elements && a.elements->size() == b.elements->size()) {
    joined.elements.emplace();
    for (size_t i = 0; i < a.elements->size(); ++i) {
      joined.elements->push_back(join((*a.elements)[i], (*b.elements)[i], value));
    }
  }
  if (a.every && b.every) joined.every = std::make_shared<const AxisFact>(join(*a.every, *b.every, value));
  return joined;
}

bool TokenFlow::visit_return(jit::Node* node) {
  jit::Block* block = node->owningBlock();
  jit::Node* owner = block->owningNode();
  if (owner == nullptr) owner = graph_.fork_of(node->owningGraph());
  if (owner == nullptr) return false;
  bool changed = false;
  if (owner->kind() == jit::prim::Loop) {
    for (size_t i = 1; i < node->inputs().size(); ++i) {  // a loop body returns its condition first
      const jit::Value* result = owner->output(i - 1);
      const AxisFact carried = join(of(owner->input(i + 1)), of(node->input(i)), result);
      changed |= put(result, carried);
      changed |= put(block->inputs()[i], carried);
    }
  } else if (owner->kind() == jit::prim::If) {
    if (block != owner->blocks().back()) return false;  // both arms have been seen at the end of the second
    const jit::Block *yes = owner->blocks()[0], *no = owner->blocks()[1];
    const auto condition = constant_bool(*this, graph_, owner->input());
    const bool skip_yes = is_dead(yes) || (condition && !*condition);
    const bool skip_no = is_dead(no) || (condition && *condition);
    for (size_t i = 0; i < owner->outputs().size(); ++i) {
      const AxisFact &first = of(yes->outputs()[i]), &second = of(no->outputs()[i]);
      const jit::Value* result = owner->output(i);
      if (first.axes && second.axes && !skip_yes && !skip_no) {  // ids or their embeddings: an argument or a tensor
        require_rank(yes->outputs()[i], static_cast<int64_t>(second.axes->size()), /*at_least=*/true);
        require_rank(no->outputs()[i], static_cast<int64_t>(first.axes->size()), /*at_least=*/true);
      }
      changed |= put(result, skip_no ? first : skip_yes ? second : join(first, second, result));
    }
  } else if (fork_subgraph(owner) != nullptr) {
    std::vector<AxisFact> results;
    for (const jit::Value* output : node->inputs()) results.push_back(of(output));
    changed |= put(owner->output(), results.size() == 1 ? results[0] : list_fact(std::move(results)));
  }
  return changed;
}

// True for a node in an arm that is never taken: what it does to dimensions tells nothing.
bool TokenFlow::is_never_run(const jit::Node* node) const {
  for (const jit::Block* block = node->owningBlock(); block != nullptr;) {
    const jit::Node* owner = block->owningNode();
    if (owner == nullptr) return false;
    if (owner->kind() == jit::prim::If) {
      const auto condition = constant_bool(*this, graph_, owner->input());
      if (condition && block == owner->blocks()[*condition ? 1 : 0]) return true;
    }
    block = owner->owningBlock();
  }
  return false;
}

bool TokenFlow::visit(jit::Node* node) {
  bool changed = false;
  if (node->kind() != jit::prim::Return && is_never_run(node)) return false;
  if (node->kind() == jit::prim::Return) return visit_return(node);
  if (node->kind() == jit::prim::If) return false;  // its blocks' returns fill its outputs
  if (node->kind() == jit::prim::Loop) {
    const jit::Block* body = node->blocks()[0];
    changed |= put(body->inputs()[0], unknown_fact());
    for (size_t i = 2; i < node->inputs().size(); ++i) {
      const jit::Value* result = node->output(i - 2);
      changed |= put(body->inputs()[i - 1], join(of(node->input(i)), of(result), body->inputs()[i - 1]));
    }
    return changed;
  }
  if (auto subgraph = fork_subgraph(node)) {
    for (size_t i = 0; i < node->inputs().size(); ++i) changed |= put(subgraph->inputs()[i], of(node->input(i)));
    return changed;
  }
  AxisTransfer transfer(*this, node);
  std::vector<AxisFact> results = transfer.results();
  for (size_t i = 0; i < node->outputs().size(); ++i) {
    changed |= put(node->output(i), i < results.size() ? std::move(results[i]) : unknown_fact());
  }
  return changed;
}

int64_t TokenFlow::argument_behind(const jit::Value* value) const {
  while (true) {
    const auto found = std::find(arguments_.begin(), arguments_.end(), value);
    if (found != arguments_.end()) return found - arguments_.begin();
    const jit::Node* node = value->node();
    if (node->kind() == jit::prim::Param) {
      value = graph_.outer_of(value);
      if (value == nullptr) return -1;
      continue;
    }
    if (node->inputs().empty() || node->outputs().size() != 1) return -1;
    switch (op_kind(*node)) {
      case OpKind::kCopy:
      case OpKind::kReshape:
      case OpKind::kMoveAxis:
      case OpKind::kElementwise:
      case OpKind::kMaskedFill:
      case OpKind::kRepeat:
        value = node->input(0);
        continue;
      case OpKind::kWhere:
        value = node->input(1);
        continue;
      default:
        return -1;
    }
  }
}

}  // namespace moetap::hooks
