#include "hooks/routers/router_axes.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

int64_t from_end(int64_t dim, std::optional<int64_t> rank) {
  return dim >= 0 && rank.has_value() ? dim - *rank : dim;
}

void move_axis(const MethodGraph& graph, const jit::Node& node, Fact& fact) {
  const std::string name = base_name(node);
  if (name == "permute") {
    const jit::Node* dims = node.input(1)->node();
    if (dims->kind() != jit::prim::ListConstruct) return;
    const int64_t rank = static_cast<int64_t>(dims->inputs().size());
    fact.rank = rank;
    const int64_t old = from_end(fact.expert_dim, rank);
    for (int64_t place = 0; place < rank; ++place) {
      const auto dim = graph.constant_int(dims->inputs()[place]);
      if (dim.has_value() && from_end(*dim, rank) == old) fact.expert_dim = place - rank;
    }
    return;
  }
  std::optional<int64_t> first = 0, second = 1;  // t, mT
  if (name == "t" || name == "numpy_T" || name == "matrix_H") {
    fact.rank = 2;
  } else if (name == "mT" || name == "adjoint") {
    first = -1, second = -2;
  } else if (node.inputs().size() >= 3) {
    first = graph.constant_int(node.input(1)), second = graph.constant_int(node.input(2));
  }
  if (!first.has_value() || !second.has_value()) return;
  // Dimensions counted from the front tell the rank if one of them is the last. It is taken to be: where the experts do
  // not move, the rank does not matter.
  if (*first >= 0 && *second >= 0 && !fact.rank.has_value()) fact.rank = std::max(*first, *second) + 1;
  const int64_t old = from_end(fact.expert_dim, fact.rank);
  const int64_t a = from_end(*first, fact.rank), b = from_end(*second, fact.rank);
  if (name == "movedim" || name == "moveaxis") {
    if (a == old)
      fact.expert_dim = b;
    else if (a < 0 && b < 0 && a < old && b >= old)
      fact.expert_dim = old - 1;
    else if (a < 0 && b < 0 && a > old && b <= old)
      fact.expert_dim = old + 1;
  } else if (old == a) {
    fact.expert_dim = b;
  } else if (old == b) {
    fact.expert_dim = a;
  }
}

bool keeps_token_order(const MethodGraph& graph, const jit::Node& node, const Fact& fact) {
  const std::string name = base_name(node);
  if (turns_elements(node)) return false;
  if (name == "t" || name == "numpy_T" || name == "matrix_H") return true;
  if (name == "permute") {
    const auto dims = graph.constant_ints(node.input(1));
    if (!dims) return false;
    const auto rank = static_cast<int64_t>(dims->size());
    int64_t last = -rank - 1;
    for (const auto& dim : *dims) {
      if (!dim) return false;
      const int64_t axis = from_end(*dim, rank);
      if (axis == from_end(fact.expert_dim, rank)) continue;
      if (axis < last) return false;
      last = axis;
    }
    return true;
  }
  std::optional<int64_t> a = -1, b = -2;  // mT, adjoint
  if (name != "mT" && name != "adjoint") {
    if (node.inputs().size() < 3) return false;
    const auto from = graph.constant_ints(node.input(1)), to = graph.constant_ints(node.input(2));
    if (!from || !to || from->size() != 1 || to->size() != 1) return false;
    a = from->front(), b = to->front();
  }
  if (!a || !b) return false;
  std::optional<int64_t> rank = fact.rank;
  if (!rank && *a >= 0 && *b >= 0) rank = std::max(*a, *b) + 1;  // as in move_axis
  const int64_t experts = from_end(fact.expert_dim, rank);
  const int64_t from = from_end(*a, rank), to = from_end(*b, rank);
  if (from == to) return true;
  if (name == "movedim" || name == "moveaxis") return from == experts;
  // Two axes change places: with the experts' between tokens' the order holds only for neighbours.
  return (from == experts || to == experts) && (from < 0) == (to < 0) && std::abs(from - to) == 1;
}

bool keeps_order_beside_slots(const MethodGraph& graph, const jit::Node& node, const Fact& fact) {
  if (base_name(node) != "permute") return keeps_token_order(graph, node, fact);
  const auto dims = graph.constant_ints(node.input(1));
  if (!dims) return false;
  const auto rank = static_cast<int64_t>(dims->size());
  const int64_t experts = from_end(fact.expert_dim, rank);
  for (const bool has_slots : {false, true}) {
    int64_t last = -rank - 1;
    bool in_order = true;
    for (const auto& dim : *dims) {
      if (!dim) return false;
      const int64_t axis = from_end(*dim, rank);
      if (axis == experts || axis == experts + 1 || (has_slots && axis == -rank)) continue;
      in_order = in_order && axis > last;
      last = axis;
    }
    if (in_order) return true;
  }
  return false;
}

// Views that name all sizes tell the rank; an expert axis that is not the last keeps its place from the front.
void resize_rank(Fact& fact, int64_t rank) {
  if (fact.expert_dim != -1 && fact.rank.has_value()) fact.expert_dim = fact.expert_dim + *fact.rank - rank;
  fact.rank = rank;
}

bool is_full_range(const MethodGraph& graph, const jit::Node& node) {
  if (base_name(node) != "slice" || node.inputs().size() < 5) return false;
  const auto step = graph.constant_int(node.input(4));
  const auto start = graph.constant(node.input(2));
  const auto end = graph.constant(node.input(3));
  if (!step || *step != 1 || !start || !end) return false;
  const bool from_start = start->isNone() || (start->isInt() && start->toInt() == 0);
  const bool to_end = end->isNone() || (end->isInt() && end->toInt() == std::numeric_limits<int64_t>::max());
  return from_start && to_end;
}

}  // namespace moetap::hooks
