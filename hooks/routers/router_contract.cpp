// Transfer functions of RouterFlow for products that are summed over a shared axis: `linear`, `matmul`, `einsum`. See
// Note [Following a projection].
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "hooks/routers/router_axes.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The equation of an einsum without blanks, and where its result begins; empty where the graph does not tell.
std::optional<std::pair<std::string, std::string>> equation_of(const MethodGraph& graph, const jit::Node& einsum) {
  const auto equation = base_name(einsum) == "einsum" ? graph.constant(einsum.input(0)) : std::nullopt;
  if (!equation || !equation->isString()) return std::nullopt;
  std::string text = equation->toStringRef();
  std::erase(text, ' ');
  const size_t arrow = text.find("->");
  if (arrow == std::string::npos) return std::nullopt;
  return std::pair(text.substr(0, arrow), text.substr(arrow + 2));
}

// True for an einsum that sums over nothing: "te,tec->tec".
bool keeps_all_dimensions(const MethodGraph& graph, const jit::Node& node) {
  const auto equation = equation_of(graph, node);
  return equation && equation->first.find_first_not_of("," + equation->second) == std::string::npos;
}

// True for an einsum that is a product of `own` with factors: "tk,t->tk". Its result has the dimensions of `own`, and
// no operand has others.
bool multiplies_by_factors(const MethodGraph& graph, const jit::Node& einsum, const std::vector<jit::Value*>& operands,
                           const jit::Value* own) {
  const auto equation = equation_of(graph, einsum);
  if (!equation) return false;
  const auto& [text, result] = *equation;
  size_t begin = 0;
  for (const jit::Value* operand : operands) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string dimensions = text.substr(begin, end - begin);
    if (operand == own ? dimensions != result : dimensions.find_first_not_of(result) != std::string::npos) return false;
    begin = end + 1;
  }
  return true;
}

}  // namespace

// Note [Weights of chosen vectors]
// Ids that choose one vector an expert, which a hidden state is multiplied by and summed, may give the first layer of
// experts of one neuron (PEER), or what weighs the experts that others choose by the same ids. The use of the numbers
// tells: the second only if they multiply the outputs of such experts. So they are followed as weights where a router
// has been found without any; where that finds weights, these are the router's.
bool RouterFlow::weighs_by_vectors(const Fact& chosen, const jit::Node& node) {
  if (chosen.role != Role::kChosen || !chosen.vectors || !chosen.aligned) return false;
  if (op_kind(node) == OpKind::kMultiply) {
    const auto& uses = node.output(0)->uses();
    const bool summed = !uses.empty() && std::all_of(uses.begin(), uses.end(), [&](const jit::Use& use) {
      if (base_name(*use.user) != "sum" || use.user->inputs().size() < 2) return false;
      const auto dims = graph_.constant_ints(use.user->input(1));
      return dims && dims->size() == 1 && dims->front() &&
             from_end(*dims->front(), shapes_.of(node.output(0)).rank) == -1;
    });
    if (!summed) return false;
  }
  multiplies_chosen_vectors_ = true;
  return vectors_ == ChosenVectors::kWeights;
}

void RouterFlow::follow_contract(jit::Node* node) {
  std::vector<jit::Value*> operands;
  const std::string name = base_name(*node);
  const bool einsum = name == "einsum";
  if (einsum) {
    operands = list_elements(node->input(node->inputs().size() > 1 ? 1 : 0));
  } else {
    for (jit::Value* input : node->inputs()) {
      if (is_tensor(input)) operands.push_back(input);
    }
  }
  std::vector<Fact> facts;
  const jit::Value *hidden = nullptr, *own_operand = nullptr;
  for (jit::Value* operand : operands) {
    if (const Fact* found = fact(operand))
      facts.push_back(*found), own_operand = operand;
    else if (origins_.is_activation(operand))
      hidden = operand;
  }
  if (facts.empty()) return;
  if (hidden != nullptr && einsum && facts.size() == 1 && carries_weights(facts[0]) &&
      multiplies_by_factors(graph_, *node, operands, own_operand)) {
    Fact product = derived(facts[0], node, facts[0].role);
    if (!facts[0].aligned) {
      lose_alignment(product);
      change_in_order(product, node->output());
    }
    set(node->output(), product);
    return;
  }
  // A hidden state is multiplied by the chosen expert's matrix, by weights or by a mask.
  if (hidden != nullptr) {
    for (const Fact& own : facts) {
      if (own.role == Role::kChosen && own.own) {  // the score of the picked expert
        Fact score = derived(own, node, Role::kSlot);
        score.aligned = true;
        score.num_slots = 1;
        set(node->output(), score);
      } else if (weighs_by_vectors(own, *node)) {
        set(node->output(), weights_of_vectors(derived(own, node, Role::kSlot)));
      } else {
        meet(node, own, hidden);
      }
    }
    return;
  }
  for (const Fact& own : facts) {
    if (own.role == Role::kChosen) event(EventKind::kLooksUp, node, remembered(own));
  }
  // Slots times a constant: their sum, perhaps weighted.
  const bool by_constants = std::all_of(operands.begin(), operands.end(), [&](const jit::Value* operand) {
    return fact(operand) != nullptr || origins_.of(operand) <= Origin::kParameter;
  });
  if (facts.size() == 1 && facts[0].role == Role::kSlot && by_constants) {
    set(node->output(), derived(remembered(facts[0]), node, Role::kStat));
    return;
  }
  // A product of followed values: two by two.
  std::optional<Fact> product = facts[0];
  if (operands.size() == 2 && facts.size() == 2 && (name == "matmul" || name == "bmm")) {
    if (auto scores = contract_scores(node, facts[0], facts[1])) {
      set(node->output(), *scores);
      return;
    }
  }
  for (size_t i = 1; i < facts.size() && product; ++i) product = contract(node, *product, facts[i]);
  if (facts.size() > 1 && product) set(node->output(), *product);
}

// Scores that experts give each other: a column of scores times a row of them, or a matrix of such products times a
// column. The result has the experts before its last dimension.
std::optional<Fact> RouterFlow::contract_scores(jit::Node* node, const Fact& left, const Fact& right) {
  const auto before_pick = [](const Fact& fact) { return fact.role == Role::kScore && fact.picks.empty(); };
  if (!before_pick(left) || !before_pick(right)) return std::nullopt;
  const bool of_column = shapes_.of(node->input(1)).last == 1;
  if (!of_column && shapes_.of(node->input(0)).last != 1) return std::nullopt;
  Fact scores = derived(of_column ? right : left, node, Role::kScore);
  scores.aligned = true;
  scores.score = nullptr;
  scores.scoring.clear();
  scores.part = 0;
  scores.expert_dim = -2;
  scores.rank = shapes_.of(node->output()).rank;
  scores.logits = node->output();
  scores.logits_dim = -2;
  return scores;
}

std::optional<Fact> RouterFlow::contract(jit::Node* node, const Fact& first, const Fact& second) const {
  const Fact left = remembered(first), right = remembered(second);
  const Fact* mask = left.role == Role::kMask ? &left : right.role == Role::kMask ? &right : nullptr;
  if (mask == nullptr) return std::nullopt;
  const Fact& other = mask == &left ? right : left;
  Fact result = derived(other, node, other.role);
  merge(result, *mask);
  if (other.role == Role::kScore && other.picks.empty() && mask->placed && keeps_all_dimensions(graph_, *node)) {
    return spread_over_places(other, *mask, node->output());
  } else if (other.role == Role::kScore && other.picks.empty()) {
    result.role = Role::kSlot;  // scores at the chosen experts
    result.place = mask->place;
    result.place_in_run = mask->place_in_run;
    result.dropped = other.dropped || mask->dropped;
  } else if (mask->placed && (other.role == Role::kSlot || other.role == Role::kScore)) {
    return spread_over_places(other, *mask, node->output());
  } else if (other.role == Role::kRouted) {
    result.role = Role::kRouted;
  } else if (other.role == Role::kSlot && mask->one_hot) {
    result.role = Role::kScore;  // weights spread over the experts
    result.expert_dim = -1;
    result.ids = mask->ids;
    result.dropped = other.dropped || mask->dropped;
  } else if (other.role == Role::kSlot || other.role == Role::kScore) {
    result.dropped = other.dropped || mask->dropped;  // those that are kept
  } else if (other.role == Role::kMask) {
    result.role = Role::kMask;
    result.one_hot = false;
    result.placed = left.placed || right.placed;
  } else {
    return std::nullopt;
  }
  return result;
}

}  // namespace moetap::hooks
