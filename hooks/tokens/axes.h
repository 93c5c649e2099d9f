#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "hooks/points/token_layout.h"

namespace moetap::hooks {

/// Something that a dimension runs along: a symbol (see AxisSymbols), or only a constant number of elements.
struct Factor {
  int symbol = -1;   // -1: a constant
  int64_t size = 0;  // of a constant, > 1

  bool is_constant() const { return symbol < 0; }
  bool operator==(const Factor&) const = default;
};

/// A dimension of a tensor, or a number that was asked of one: a product of factors, of which the last varies fastest.
/// Empty: of size 1.
using Axis = std::vector<Factor>;

Axis constant_axis(int64_t size);
/// The size of an axis without symbols; empty for one with symbols.
std::optional<int64_t> constant_size(const Axis& axis);

struct AxisSymbol {
  enum class Kind {
    kArgument,       // a dimension of an argument
    kFresh,          // something that an operator made: sizes may differ, coordinates certainly do
    kConcatenation,  // parts behind each other
    kBuffer,         // places of a buffer that is as long in each forward, into which a part is written
    kPacked,         // the tokens that are left of those along an axis
  };
  Kind kind = Kind::kFresh;
  int64_t argument = 0, dim = 0;
  bool features = false;  // the last dimension of a hidden state: where a view ends with a constant, it is this one
  std::vector<Axis> parts = {};  // of a concatenation
  int64_t places = -1;        // of a buffer: the argument that says where the forward's own part is written; -1: none
  Axis whole = {};            // of packed tokens: what they were taken from,
  TokenPacking packing = {};  // and which of them are left
  bool turned = false;        // fresh: the places of an axis of tokens or samples in another order
};

/// The symbols of a method graph. Symbols that meet in one dimension (`x + y`) are of one class: they run along the
/// same thing, though one may be broadcast.
class AxisSymbols {
 public:
  Axis of_argument(int64_t argument, int64_t dim, bool features = false);
  /// The same symbol for the same owner and place.
  Axis fresh(const void* owner, int64_t place);
  /// As `fresh`, of what runs along `axis` in another order.
  Axis turned(const void* owner, int64_t place, const Axis& axis);
  Axis concatenation(const void* owner, std::vector<Axis> parts);
  /// As `fresh`.
  Axis buffer(const void* owner, int64_t place, int64_t places);
  Axis packed(const void* owner, Axis whole, const TokenPacking& packing);

  const AxisSymbol& operator[](int symbol) const { return symbols_[static_cast<size_t>(symbol)]; }
  int count() const { return static_cast<int>(symbols_.size()); }
  int class_of(int symbol) const;
  /// The class of an argument's dimension; -1 if no value has it.
  int class_of_argument(int64_t argument, int64_t dim) const;
  bool same_class(const Factor& a, const Factor& b) const;

  /// The axis of a result whose operands have `a` and `b` there. Symbols that meet become one class.
  Axis meet(const Axis& a, const Axis& b);

  /// Says that the last places along `whole`, if it is one symbol, are those of `end`.
  void mark_end(const Axis& whole, const Axis& end);
  /// True if something of the class is a concatenation, or was cut, so that it ends with what `end` runs along.
  bool ends_with(int class_id, const Factor& end) const;
  /// True if something of the class is a concatenation that begins with what `front` runs along, and does not end so.
  bool begins_with(int class_id, const Factor& front) const;
  /// The buffer of a class; null: none of it is one.
  const AxisSymbol* buffer_of(int class_id) const;

  /// Says that values along the symbols of the axis, if it is one symbol, were mixed: summed with each other.
  void mark_mixed(const Axis& axis);
  bool is_mixed(int symbol) const;

 private:
  int add(AxisSymbol symbol);
  void unify(int a, int b);
  bool names_something(const Axis& axis) const;
  AxisSymbol& symbol_of(const Axis& axis) { return symbols_[static_cast<size_t>(axis[0].symbol)]; }

  std::vector<AxisSymbol> symbols_;
  std::vector<int> parents_;
  std::vector<bool> mixed_;  // by symbol
  std::vector<std::pair<int, Axis>> ends_;
  std::map<std::pair<int64_t, int64_t>, int> of_argument_;
  std::map<std::pair<const void*, int64_t>, int> fresh_;
};

}  // namespace moetap::hooks
