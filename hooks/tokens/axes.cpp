#include "hooks/tokens/axes.h"

#include <algorithm>

namespace moetap::hooks {

Axis constant_axis(int64_t size) {
  return size == 1 ? Axis{} : Axis{{-1, size}};
}

std::optional<int64_t> constant_size(const Axis& axis) {
  int64_t size = 1;
  for (const Factor& factor : axis) {
    if (!factor.is_constant()) return std::nullopt;
    size *= factor.size;
  }
  return size;
}

int AxisSymbols::add(AxisSymbol symbol) {
  symbols_.push_back(std::move(symbol));
  parents_.push_back(count() - 1);
  mixed_.push_back(false);
  return count() - 1;
}

Axis AxisSymbols::of_argument(int64_t argument, int64_t dim, bool features) {
  const auto [place, is_new] = of_argument_.try_emplace({argument, dim}, count());
  if (is_new) add({AxisSymbol::Kind::kArgument, argument, dim, features});
  return {{place->second, 0}};
}

Axis AxisSymbols::fresh(const void* owner, int64_t place) {
  const auto [found, is_new] = fresh_.try_emplace({owner, place}, count());
  if (is_new) add({});
  return {{found->second, 0}};
}

Axis AxisSymbols::concatenation(const void* owner, std::vector<Axis> parts) {
  const Axis axis = fresh(owner, -1);
  symbol_of(axis).kind = AxisSymbol::Kind::kConcatenation;
  symbol_of(axis).parts = std::move(parts);
  return axis;
}

Axis AxisSymbols::turned(const void* owner, int64_t place, const Axis& axis) {
  const Axis result = fresh(owner, place);
  symbol_of(result).turned = std::any_of(axis.begin(), axis.end(), [&](const Factor& factor) {
    return !factor.is_constant() && (*this)[factor.symbol].kind == AxisSymbol::Kind::kArgument;
  });
  return result;
}

Axis AxisSymbols::buffer(const void* owner, int64_t place, int64_t places) {
  const Axis axis = fresh(owner, place);
  symbol_of(axis).kind = AxisSymbol::Kind::kBuffer;
  symbol_of(axis).places = places;
  return axis;
}

Axis AxisSymbols::packed(const void* owner, Axis whole, const TokenPacking& packing) {
  const Axis axis = fresh(owner, -1);
  symbol_of(axis).kind = AxisSymbol::Kind::kPacked;
  symbol_of(axis).whole = std::move(whole);
  symbol_of(axis).packing = packing;
  return axis;
}

void AxisSymbols::mark_end(const Axis& whole, const Axis& end) {
  const bool one_each = whole.size() == 1 && end.size() == 1 && !whole[0].is_constant() && !end[0].is_constant();
  if (!one_each || same_class(whole[0], end[0])) return;
  const std::pair<int, Axis> marked{whole[0].symbol, end};
  if (std::find(ends_.begin(), ends_.end(), marked) == ends_.end()) ends_.push_back(marked);
}

bool AxisSymbols::ends_with(int class_id, const Factor& end) const {
  const auto is_end = [&](const Axis& axis) { return axis.size() == 1 && same_class(axis[0], end); };
  for (int symbol = 0; symbol < count(); ++symbol) {
    const AxisSymbol& joined = symbols_[static_cast<size_t>(symbol)];
    if (!joined.parts.empty() && class_of(symbol) == class_id && is_end(joined.parts.back())) return true;
  }
  return std::any_of(ends_.begin(), ends_.end(),
                     [&](const auto& cut) { return class_of(cut.first) == class_id && is_end(cut.second); });
}

bool AxisSymbols::begins_with(int class_id, const Factor& front) const {
  const auto is_front = [&](const Axis& axis) { return axis.size() == 1 && same_class(axis[0], front); };
  for (int symbol = 0; symbol < count(); ++symbol) {
    const std::vector<Axis>& parts = symbols_[static_cast<size_t>(symbol)].parts;
    if (parts.size() > 1 && class_of(symbol) == class_id && is_front(parts.front()) && !is_front(parts.back()))
      return true;
  }
  return false;
}

const AxisSymbol* AxisSymbols::buffer_of(int class_id) const {
  for (int symbol = 0; symbol < count(); ++symbol) {
    const AxisSymbol& found = symbols_[static_cast<size_t>(symbol)];
    if (found.kind == AxisSymbol::Kind::kBuffer && class_of(symbol) == class_id) return &found;
  }
  return nullptr;
}

int AxisSymbols::class_of(int symbol) const {
  while (parents_[static_cast<size_t>(symbol)] != symbol) symbol = parents_[static_cast<size_t>(symbol)];
  return symbol;
}

int AxisSymbols::class_of_argument(int64_t argument, int64_t dim) const {
  const auto found = of_argument_.find({argument, dim});
  return found == of_argument_.end() ? -1 : class_of(found->second);
}

bool AxisSymbols::same_class(const Factor& a, const Factor& b) const {
  if (a.is_constant() || b.is_constant()) return a == b;
  return class_of(a.symbol) == class_of(b.symbol);
}

void AxisSymbols::unify(int a, int b) {
  const int first = class_of(a), second = class_of(b);
  parents_[static_cast<size_t>(std::max(first, second))] = std::min(first, second);
}

bool AxisSymbols::names_something(const Axis& axis) const {
  return std::any_of(axis.begin(), axis.end(), [&](const Factor& factor) {
    return !factor.is_constant() && (*this)[factor.symbol].kind != AxisSymbol::Kind::kFresh;
  });
}

Axis AxisSymbols::meet(const Axis& a, const Axis& b) {
  if (a.empty()) return b;
  if (b.empty() || a == b) return a;
  const bool named_a = names_something(a), named_b = names_something(b);
  if (!named_b) return named_a || constant_size(a) ? a : b;
  if (!named_a) return b;
  if (a.size() != b.size()) return a;
  bool takes_b = false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].is_constant() || b[i].is_constant() || same_class(a[i], b[i])) continue;
    const AxisSymbol& first = (*this)[a[i].symbol];
    const AxisSymbol& second = (*this)[b[i].symbol];
    if (first.kind == AxisSymbol::Kind::kFresh || second.kind == AxisSymbol::Kind::kFresh) continue;
    // Two dimensions of one argument that happen to have one size.
    if (first.kind == AxisSymbol::Kind::kArgument && second.kind == AxisSymbol::Kind::kArgument &&
        first.argument == second.argument) {
      continue;
    }
    takes_b = takes_b || second.kind == AxisSymbol::Kind::kConcatenation;
    unify(a[i].symbol, b[i].symbol);
  }
  return takes_b ? b : a;
}

void AxisSymbols::mark_mixed(const Axis& axis) {
  if (axis.size() == 1 && !axis[0].is_constant()) mixed_[static_cast<size_t>(axis[0].symbol)] = true;
}

bool AxisSymbols::is_mixed(int symbol) const {
  const int of = class_of(symbol);
  for (int other = 0; other < count(); ++other) {
    if (mixed_[static_cast<size_t>(other)] && class_of(other) == of) return true;
  }
  return false;
}

}  // namespace moetap::hooks
