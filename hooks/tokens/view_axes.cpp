#include "hooks/tokens/view_axes.h"

#include <algorithm>

namespace moetap::hooks {
namespace {

/// What of a wanted size is not covered yet: symbols in any order, and a constant.
struct Wanted {
  std::vector<Factor> symbols;
  int64_t constant = 1;

  explicit Wanted(const Axis& size) {
    for (const Factor& factor : size) {
      if (factor.is_constant()) {
        constant *= factor.size;
      } else {
        symbols.push_back(factor);
      }
    }
  }
  bool done() const { return symbols.empty() && constant == 1; }
};

class ViewMatch {
 public:
  ViewMatch(const std::vector<Axis>& source, const std::vector<ViewSize>& sizes, AxisSymbols& symbols)
      : sizes_(sizes), symbols_(symbols), axes_(sizes.size()), last_size_(sizes.size()) {
    for (const Axis& axis : source) {
      starts_.push_back(factors_.size());
      factors_.insert(factors_.end(), axis.begin(), axis.end());
    }
    end_ = factors_.size();
  }

  std::optional<std::vector<Axis>> match(const void* owner) {
    const bool all_known = std::all_of(sizes_.begin(), sizes_.end(),
                                       [](const ViewSize& size) { return size.kind == ViewSize::Kind::kKnown; });
    while (first_size_ < last_size_ && take_front()) ++first_size_;
    while (first_size_ < last_size_ && take_back()) --last_size_;
    // Sizes of 1 take nothing.
    std::vector<size_t> places;
    size_t open = 0;
    for (size_t i = first_size_; i < last_size_; ++i) {
      if (sizes_[i].kind == ViewSize::Kind::kKnown && constant_size(sizes_[i].size) == 1) continue;
      places.push_back(i);
      open += sizes_[i].kind == ViewSize::Kind::kKnown ? 0 : 1;
    }
    if (places.empty()) return begin_ != end_ && all_known ? std::nullopt : std::optional(axes_);
    if (places.size() == 1) {
      axes_[places[0]] = keep({factors_.begin() + offset(begin_), factors_.begin() + offset(end_)}, places[0], owner);
      return axes_;
    }
    const std::vector<Axis> left = axes_left(places.size());
    for (size_t i = 0; i < places.size(); ++i) {
      const ViewSize& size = sizes_[places[i]];
      const auto constant = size.kind == ViewSize::Kind::kKnown ? constant_size(size.size) : std::nullopt;
      if (left.size() == places.size() && open <= 1) {
        axes_[places[i]] = keep(left[i], places[i], owner);
      } else {
        axes_[places[i]] = constant ? constant_axis(*constant) : fresh(places[i], owner);
      }
    }
    return axes_;
  }

 private:
  static std::ptrdiff_t offset(size_t place) { return static_cast<std::ptrdiff_t>(place); }

  Axis fresh(size_t place, const void* owner) { return symbols_.fresh(owner, static_cast<int64_t>(place)); }

  /// What of a factor a wanted size takes; empty: nothing fits.
  std::optional<Factor> take(const Factor& factor, Wanted& wanted) const {
    if (factor.is_constant()) {
      if (wanted.constant % factor.size == 0) {
        wanted.constant /= factor.size;
        return factor;
      }
      if (wanted.symbols.empty() && wanted.constant > 1 && factor.size % wanted.constant == 0) {
        const Factor part{-1, wanted.constant};
        wanted.constant = 1;
        return part;
      }
      return std::nullopt;
    }
    if (symbols_[factor.symbol].features && wanted.symbols.empty() && wanted.constant > 1) {
      wanted.constant = 1;
      return factor;
    }
    const auto found = std::find_if(wanted.symbols.begin(), wanted.symbols.end(),
                                    [&](const Factor& other) { return symbols_.same_class(factor, other); });
    if (found == wanted.symbols.end()) return std::nullopt;
    wanted.symbols.erase(found);
    return factor;
  }

  bool take_front() {
    const ViewSize& size = sizes_[first_size_];
    if (size.kind != ViewSize::Kind::kKnown) return false;
    Wanted wanted(size.size);
    Axis axis;
    size_t at = begin_;
    for (; !wanted.done(); ++at) {
      if (at == end_) return false;
      const auto part = take(factors_[at], wanted);
      if (!part) return false;
      axis.push_back(*part);
      if (*part == factors_[at]) continue;
      // The rest of a constant stays.
      factors_[at].size /= part->size;
      break;
    }
    begin_ = at;
    axes_[first_size_] = axis;
    return true;
  }

  bool take_back() {
    const ViewSize& size = sizes_[last_size_ - 1];
    if (size.kind != ViewSize::Kind::kKnown) return false;
    Wanted wanted(size.size);
    Axis axis;
    size_t at = end_;
    for (; !wanted.done(); --at) {
      if (at == begin_) return false;
      const auto part = take(factors_[at - 1], wanted);
      if (!part) return false;
      axis.insert(axis.begin(), *part);
      if (*part == factors_[at - 1]) continue;
      factors_[at - 1].size /= part->size;
      break;
    }
    end_ = at;
    axes_[last_size_ - 1] = axis;
    return true;
  }

  /// What is left of the source, cut as the source was; else, if the sizes are constants, factor by factor.
  std::vector<Axis> axes_left(size_t count) const {
    std::vector<Axis> left;
    bool whole = true;
    for (size_t i = 0; i < starts_.size(); ++i) {
      const size_t start = starts_[i], stop = i + 1 < starts_.size() ? starts_[i + 1] : factors_.size();
      const size_t first = std::max(start, begin_), last = std::min(stop, end_);
      if (first >= last) continue;
      whole = whole && first == start && last == stop;
      left.emplace_back(factors_.begin() + offset(first), factors_.begin() + offset(last));
    }
    if (whole && left.size() == count) return left;
    left.clear();
    for (size_t i = begin_; i < end_; ++i) left.push_back({factors_[i]});
    return left;
  }

  /// The factors for a size that nothing else is left for. A size that another argument has makes the two one class; a
  /// size that is another dimension of the same argument shows that the elements are cut anew.
  Axis keep(Axis factors, size_t place, const void* owner) {
    const ViewSize& size = sizes_[place];
    if (size.kind != ViewSize::Kind::kKnown || constant_size(size.size)) return factors;
    if (factors.size() != 1 || size.size.size() != 1 || factors[0].is_constant()) return fresh(place, owner);
    const AxisSymbol& own = symbols_[factors[0].symbol];
    const AxisSymbol& wanted = symbols_[size.size[0].symbol];
    const auto argument = AxisSymbol::Kind::kArgument;
    if (own.kind == argument && wanted.kind == argument && own.argument == wanted.argument) return fresh(place, owner);
    return symbols_.meet(factors, size.size);
  }

  const std::vector<ViewSize>& sizes_;
  AxisSymbols& symbols_;
  std::vector<Factor> factors_;  // of the source
  std::vector<size_t> starts_;   // of its axes
  size_t begin_ = 0, end_ = 0;   // the factors that are not matched yet
  std::vector<Axis> axes_;
  size_t first_size_ = 0, last_size_;  // the sizes that are not matched yet
};

}  // namespace

std::optional<std::vector<Axis>> view_axes(const std::vector<Axis>& source, const std::vector<ViewSize>& sizes,
                                           const void* owner, AxisSymbols& symbols) {
  return ViewMatch(source, sizes, symbols).match(owner);
}

}  // namespace moetap::hooks
