#include "hooks/attention/attention_axes.h"

#include <algorithm>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

bool is_matrix_product(const std::string& name) {
  return name == "matmul" || name == "mm" || name == "bmm" || name == "baddbmm";
}

// The first of the two factors among the inputs.
size_t first_factor(const std::string& name) {
  return name == "baddbmm" ? 1 : 0;
}

struct Equation {
  std::string left, right, result;
};

// The letters of an einsum of two operands of so many dimensions; `...` becomes capital letters from the end of the
// alphabet.
std::optional<Equation> parsed(std::string text, std::optional<int64_t> left_rank, std::optional<int64_t> right_rank) {
  std::erase(text, ' ');
  const size_t arrow = text.find("->"), comma = text.find(',');
  if (arrow == std::string::npos || comma == std::string::npos || comma > arrow) return std::nullopt;
  Equation equation{text.substr(0, comma), text.substr(comma + 1, arrow - comma - 1), text.substr(arrow + 2)};
  if (equation.right.find(',') != std::string::npos) return std::nullopt;
  const auto dotted = [](const std::string& letters) { return letters.find("...") != std::string::npos; };
  int64_t more = dotted(text) ? -1 : 0;  // dimensions that `...` stands for
  for (const auto& [letters, rank] : {std::pair(&equation.left, left_rank), std::pair(&equation.right, right_rank)}) {
    if (!rank || !dotted(*letters)) continue;
    const int64_t here = *rank - static_cast<int64_t>(letters->size()) + 3;
    if (more >= 0 && here != more) return std::nullopt;
    more = here;
  }
  if (more < 0 || more > 4) return std::nullopt;
  for (std::string* letters : {&equation.left, &equation.right, &equation.result}) {
    const size_t dots = letters->find("...");
    if (dots != std::string::npos) letters->replace(dots, 3, std::string("WXYZ").substr(0, static_cast<size_t>(more)));
  }
  return equation;
}

// How many sizes a view is given.
std::optional<size_t> count_of_sizes(const MethodGraph& graph, const jit::Value* sizes) {
  if (sizes->node()->kind() == jit::prim::ListConstruct) return sizes->node()->inputs().size();
  const auto constant = graph.constant(sizes);
  if (constant && constant->isIntList()) return constant->toIntVector().size();
  return std::nullopt;
}

}  // namespace

std::optional<int64_t> AttentionAxes::rank(const jit::Value* value) {
  if (const auto& axes = flow_.of(value).axes) return static_cast<int64_t>(axes->size());
  return shapes_.of(value).rank;
}

const Axis* AttentionAxes::axis(const jit::Value* value, size_t dim) const {
  const auto& axes = flow_.of(value).axes;
  return axes && dim < axes->size() ? &(*axes)[dim] : nullptr;
}

std::optional<size_t> AttentionAxes::dim(const jit::Value* value, size_t rank) const {
  const auto found = graph_.constant_int(value);
  return found ? dim(*found, rank) : std::nullopt;
}

std::optional<size_t> AttentionAxes::dim(int64_t dim, size_t rank) {
  const int64_t from_start = dim < 0 ? dim + static_cast<int64_t>(rank) : dim;
  if (from_start < 0 || from_start >= static_cast<int64_t>(rank)) return std::nullopt;
  return static_cast<size_t>(from_start);
}

std::optional<ScoreProduct> AttentionAxes::einsum(jit::Node* node) {
  const auto product_of = operands(node);
  const auto text = graph_.constant(node->input(0));
  if (!product_of || !text || !text->isString()) return std::nullopt;
  ScoreProduct product = *product_of;
  auto left = rank(product.left), right = rank(product.right);
  if (!left && !right) left = right = kRankOfScores;
  const auto equation = parsed(text->toStringRef(), left, right);
  if (!equation) return std::nullopt;
  for (const char letter : equation->result) {
    const bool left = equation->left.find(letter) != std::string::npos;
    const bool right = equation->right.find(letter) != std::string::npos;
    product.places += left && right ? 's' : left ? 'x' : 'y';
  }
  return product;
}

std::optional<ScoreProduct> AttentionAxes::operands(jit::Node* node) {
  if (op_kind(*node) != OpKind::kContract) return std::nullopt;
  const std::string name = base_name(*node);
  if (name == "einsum") {
    jit::Node* list = node->input(1)->node();
    if (list->kind() != jit::prim::ListConstruct || list->inputs().size() != 2) return std::nullopt;
    return ScoreProduct{node, list->input(0), list->input(1), {}};
  }
  if (!is_matrix_product(name)) return std::nullopt;
  const size_t first = first_factor(name);
  return ScoreProduct{node, node->input(first), node->input(first + 1), {}};
}

std::optional<ScoreProduct> AttentionAxes::product(jit::Node* node) {
  if (base_name(*node) == "einsum") return einsum(node);
  const auto product_of = operands(node);
  if (!product_of) return std::nullopt;
  ScoreProduct product = *product_of;
  const std::string name = base_name(*node);
  int64_t dims = name == "mm" ? 2 : 3;
  if (name == "matmul") {
    const auto left = rank(product.left), right = rank(product.right), result = rank(node->output(0));
    if ((left && *left < 2) || (right && *right < 2)) return std::nullopt;
    dims = left || right ? std::max(left.value_or(0), right.value_or(0)) : result.value_or(kRankOfScores);
  }
  product.places = std::string(static_cast<size_t>(dims - 2), 's') + "xy";
  return product;
}

bool AttentionAxes::sums_over(const jit::Node* product, const jit::Value* value, const Places& places, size_t summed) {
  const std::string name = base_name(*product);
  if (name == "einsum") {
    const jit::Node* list = product->input(1)->node();
    const auto text = graph_.constant(product->input(0));
    if (list->inputs().size() != 2 || !text || !text->isString()) return false;
    const bool is_left = list->input(0) == value;
    if (!is_left && list->input(1) != value) return false;
    const auto own_rank = std::optional(static_cast<int64_t>(places.size()));
    const auto equation = parsed(text->toStringRef(), is_left ? own_rank : rank(list->input(0)),
                                 is_left ? rank(list->input(1)) : own_rank);
    if (!equation) return false;
    const std::string& own = is_left ? equation->left : equation->right;
    const std::string& other = is_left ? equation->right : equation->left;
    if (own.size() != places.size()) return false;
    return equation->result.find(own[summed]) == std::string::npos && other.find(own[summed]) != std::string::npos;
  }
  if (!is_matrix_product(name) || places.size() < 2) return false;
  const size_t first = first_factor(name);
  if (product->input(first) == value) return summed == places.size() - 1;
  return product->input(first + 1) == value && summed == places.size() - 2;
}

std::optional<Places> AttentionAxes::moved(const jit::Node* node, const Places& places) const {
  const std::string name = base_name(*node);
  Places result = places;
  if (name == "transpose" || name == "swapaxes" || name == "swapdims") {
    const auto a = dim(node->input(1), places.size()), b = dim(node->input(2), places.size());
    if (!a || !b) return std::nullopt;
    std::swap(result[*a], result[*b]);
    return result;
  }
  if (name == "t" || name == "mT" || name == "numpy_T" || name == "adjoint" || name == "matrix_H") {
    if (places.size() < 2 || (name == "numpy_T" && places.size() != 2)) return std::nullopt;
    std::swap(result[places.size() - 1], result[places.size() - 2]);
    return result;
  }
  if (name == "permute") {
    const auto dims = graph_.constant_ints(node->input(1));
    if (!dims || dims->size() != places.size()) return std::nullopt;
    for (size_t i = 0; i < dims->size(); ++i) {
      if (!(*dims)[i]) return std::nullopt;
      const int64_t from = *(*dims)[i] < 0 ? *(*dims)[i] + static_cast<int64_t>(places.size()) : *(*dims)[i];
      if (from < 0 || from >= static_cast<int64_t>(places.size())) return std::nullopt;
      result[i] = places[static_cast<size_t>(from)];
    }
    return result;
  }
  if (name == "movedim" || name == "moveaxis") {
    const auto from = dim(node->input(1), places.size()), to = dim(node->input(2), places.size());
    if (!from || !to) return std::nullopt;
    result.erase(*from, 1);
    result.insert(*to, 1, places[*from]);
    return result;
  }
  return std::nullopt;
}

namespace {

struct Piece {
  Factor factor;
  char place;
};

// The factors of dimensions, each with the place that it is of. A constant beside queries or keys in one dimension is a
// number of heads.
std::vector<Piece> pieces_of(const std::vector<Axis>& axes, const Places& places) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < places.size(); ++i) {
    const bool beside_tokens =
        std::any_of(axes[i].begin(), axes[i].end(), [](const Factor& factor) { return !factor.is_constant(); });
    for (const Factor& factor : axes[i]) {
      pieces.push_back({factor, factor.is_constant() && beside_tokens ? 's' : places[i]});
    }
  }
  return pieces;
}

// A view keeps the order of the factors of its dimensions: each new one is of the places that its factors were of.
std::optional<Places> aligned(const std::vector<Axis>& before, const Places& places, const std::vector<Axis>& after,
                              const AxisSymbols& symbols) {
  std::vector<Piece> pieces = pieces_of(before, places);
  Places result;
  size_t at = 0;
  for (const Axis& axis : after) {
    char place = '1';
    for (const Factor& factor : axis) {
      if (at == pieces.size()) return std::nullopt;
      Piece& piece = pieces[at];
      const bool constants = piece.factor.is_constant() && factor.is_constant();
      const bool cut = constants && piece.factor.size > factor.size && piece.factor.size % factor.size == 0;
      if (!cut && !symbols.same_class(piece.factor, factor)) return std::nullopt;
      const bool heads_join = place != '1' && place != piece.place;
      if (heads_join && place != 's' && piece.place != 's') return std::nullopt;
      place = heads_join ? (place == 's' ? piece.place : place) : piece.place;
      if (cut) {
        piece.factor.size /= factor.size;
      } else {
        ++at;
      }
    }
    result += place;
  }
  return at == pieces.size() ? std::optional(result) : std::nullopt;
}

}  // namespace

std::optional<Places> AttentionAxes::reshaped(const jit::Node* node, const Places& places) {
  const std::string name = base_name(*node);
  if (name == "unsqueeze") {
    const auto at = dim(node->input(1), places.size() + 1);
    if (!at) return std::nullopt;
    return Places(places).insert(*at, 1, '1');
  }
  if (name == "squeeze") {
    const auto at = node->inputs().size() == 2 ? dim(node->input(1), places.size()) : std::nullopt;
    if (!at) return std::nullopt;
    const Axis* squeezed = axis(node->input(0), *at);
    if (places[*at] != '1' && (squeezed == nullptr || constant_size(*squeezed) != 1)) return std::nullopt;
    return Places(places).erase(*at, 1);
  }
  const auto &before = flow_.of(node->input(0)).axes, &after = flow_.of(node->output(0)).axes;
  if (before && after && before->size() == places.size()) {
    if (const auto found = aligned(*before, places, *after, flow_.symbols())) return found;
  }
  std::optional<size_t> count;
  if (name == "view" || name == "reshape" || name == "_unsafe_view" || name == "expand") {
    count = count_of_sizes(graph_, node->input(1));
  } else if (const auto known = rank(node->output(0))) {
    count = static_cast<size_t>(*known);
  }
  if (!count) return std::nullopt;
  if (*count == places.size()) return places;
  // Batch and heads in one dimension, or in several: before queries and keys, which stay.
  if (std::min(*count, places.size()) < 3) return std::nullopt;
  const Places last = places.substr(places.size() - 2);
  if (last != "xy" && last != "yx") return std::nullopt;
  return Places(*count - 2, 's') + last;
}

std::optional<Places> AttentionAxes::through(const jit::Node* node, const jit::Value* from, const Places& places) {
  switch (op_kind(*node)) {
    case OpKind::kMoveAxis:
      return moved(node, places);
    case OpKind::kReshape:
    case OpKind::kRepeat:
      return node->input(0) == from ? reshaped(node, places) : std::nullopt;
    default:
      return places;
  }
}

bool AttentionAxes::sums_over_tokens(const ScoreProduct& product) const {
  const auto& axes = flow_.of(product.left).axes;
  return axes && !axes->empty() && base_name(*product.node) != "einsum" && runs_along_tokens(axes->back());
}

bool AttentionAxes::runs_along_tokens(const Axis& axis) const {
  return std::any_of(axis.begin(), axis.end(), [&](const Factor& factor) {
    if (factor.is_constant()) return false;
    const AxisSymbol& symbol = flow_.symbols()[factor.symbol];
    const auto is_tokens = [&](const Axis& part) { return runs_along_tokens(part); };
    if (symbol.kind == AxisSymbol::Kind::kArgument) return !symbol.features;
    if (symbol.kind == AxisSymbol::Kind::kBuffer) return true;  // places of keys
    return std::any_of(symbol.parts.begin(), symbol.parts.end(), is_tokens);
  });
}

}  // namespace moetap::hooks
