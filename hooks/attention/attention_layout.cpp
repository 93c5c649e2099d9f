// What the dimensions of scores are: the letters of a layout.

#include <algorithm>
#include <string>

#include "hooks/attention/attention_axes.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

bool has_symbol(const Axis& axis) {
  return std::any_of(axis.begin(), axis.end(), [](const Factor& factor) { return !factor.is_constant(); });
}

bool has_constant(const Axis& axis) {
  return std::any_of(axis.begin(), axis.end(), [](const Factor& factor) { return factor.is_constant(); });
}

// The letter of the only dimension before queries and keys, and the heads that lie in it beside the batch.
std::optional<AttentionAxes::Layout> of_one_dimension(const Axis* axis, const AxisSymbols& symbols) {
  if (axis == nullptr) return std::nullopt;
  if (!has_symbol(*axis)) return AttentionAxes::Layout{axis->empty() ? "b" : "h", 0};
  // Something that no argument has may be batch and heads in any order.
  const bool known = std::all_of(axis->begin(), axis->end(), [&](const Factor& factor) {
    return factor.is_constant() || symbols[factor.symbol].kind == AxisSymbol::Kind::kArgument;
  });
  if (!known) return std::nullopt;
  if (!has_constant(*axis)) return AttentionAxes::Layout{"b", 0};
  int64_t heads = 1;
  bool behind = false;
  for (const Factor& factor : *axis) {
    if (!factor.is_constant() && behind) return std::nullopt;  // the heads vary slower than the batch
    behind = behind || factor.is_constant();
    if (factor.is_constant()) heads *= factor.size;
  }
  return AttentionAxes::Layout{"m", heads};
}

}  // namespace

std::optional<AttentionAxes::Layout> AttentionAxes::layout(const jit::Value* value, const Places& places,
                                                           size_t keys) const {
  const char of_keys = places[keys], of_queries = of_keys == 'x' ? 'y' : 'x';
  if (of_keys != 'x' && of_keys != 'y') return std::nullopt;
  std::vector<size_t> queries, rest;
  for (size_t i = 0; i < places.size(); ++i) {
    if (i == keys) continue;
    if (places[i] == of_keys) return std::nullopt;
    (places[i] == of_queries ? queries : rest).push_back(i);
  }
  // Of several dimensions that the query alone has, one runs along tokens; the others are heads that share a key.
  if (queries.size() > 1) {
    std::vector<size_t> tokens;
    for (const size_t i : queries) {
      const Axis* own = axis(value, i);
      if (own == nullptr) return std::nullopt;
      if (has_symbol(*own)) tokens.push_back(i);
    }
    if (tokens.size() != 1) return std::nullopt;
    for (const size_t i : queries) {
      if (i != tokens[0]) rest.push_back(i);
    }
    queries = tokens;
    std::sort(rest.begin(), rest.end());
  }
  if (queries.size() != 1) return std::nullopt;
  if (const Axis* own = axis(value, queries[0]); own != nullptr && has_symbol(*own) && has_constant(*own)) {
    return std::nullopt;  // queries and heads in one dimension
  }
  Layout layout{std::string(places.size(), '?'), 0};
  layout.letters[queries[0]] = 'q';
  layout.letters[keys] = 'k';
  const auto of_query_alone = [&](size_t i) { return places[i] == of_queries; };
  if (rest.size() == 1) {
    const auto one = of_query_alone(rest[0]) ? Layout{"h", 0} : of_one_dimension(axis(value, rest[0]), flow_.symbols());
    if (!one) return std::nullopt;
    layout.letters[rest[0]] = one->letters[0];
    layout.num_heads = one->num_heads;
  } else if (rest.size() == 2) {
    const Axis *first = axis(value, rest[0]), *second = axis(value, rest[1]);
    const bool heads_first = of_query_alone(rest[0]) ||
                             (first != nullptr && second != nullptr && !has_symbol(*first) && has_symbol(*second));
    const Axis* heads = heads_first ? first : second;
    if (heads != nullptr && runs_along_tokens(*heads)) return std::nullopt;
    layout.letters[rest[0]] = heads_first ? 'h' : 'b';
    layout.letters[rest[1]] = heads_first ? 'b' : 'h';
  } else if (rest.size() == 3) {
    for (const size_t i : {rest[1], rest[2]}) {
      if (const Axis* own = axis(value, i); own != nullptr && runs_along_tokens(*own)) return std::nullopt;
    }
    const bool groups_last = of_query_alone(rest[1]) && !of_query_alone(rest[2]);
    layout.letters[rest[0]] = 'b';
    layout.letters[rest[1]] = groups_last ? 'r' : 'g';
    layout.letters[rest[2]] = groups_last ? 'g' : 'r';
  } else if (!rest.empty()) {
    return std::nullopt;
  }
  return layout;
}

bool AttentionAxes::is_batch_alone(const jit::Value* value, const Layout& layout, size_t dim) const {
  if (layout.letters.find_first_of("bm") != std::string::npos) return false;
  const Axis* own = axis(value, dim);
  if (own == nullptr || own->size() != 1 || own->front().is_constant()) return false;
  const AxisSymbol& symbol = flow_.symbols()[own->front().symbol];
  return symbol.kind == AxisSymbol::Kind::kArgument && symbol.dim == 0 && flow_.rank(symbol.argument) > 2;
}

std::optional<AttentionAxes::Layout> AttentionAxes::fused_layout(const jit::Value* query) {
  const int64_t dims = rank(query).value_or(kRankOfScores);
  if (dims < 2) return std::nullopt;
  const Places places = Places(static_cast<size_t>(dims - 2), 's') + "xy";
  return layout(query, places, places.size() - 1);
}

}  // namespace moetap::hooks
