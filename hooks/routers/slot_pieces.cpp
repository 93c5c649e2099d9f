#include "hooks/routers/slot_pieces.h"

#include <torch/csrc/jit/ir/constants.h>

#include <cstdint>
#include <optional>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// Where a piece begins in what it was taken from; empty where that is not fixed.
std::optional<int64_t> begin_of(const jit::Value* piece) {
  for (;;) {
    const jit::Node& node = *piece->node();
    if (node.kind() == jit::prim::ListUnpack) return static_cast<int64_t>(piece->offset());
    if (node.inputs().empty()) return std::nullopt;
    const OpKind kind = op_kind(node);
    if (kind == OpKind::kSelect || kind == OpKind::kSlice) {
      const auto begin = jit::toIValue(node.input(2));
      if (begin && begin->isNone()) return 0;
      return begin && begin->isInt() ? std::optional(begin->toInt()) : std::nullopt;
    }
    if (kind != OpKind::kCopy && kind != OpKind::kReshape) return std::nullopt;
    piece = node.input(0);
  }
}

}  // namespace

bool joins_pieces_in_order(const jit::Node& concatenation) {
  std::optional<int64_t> last;
  for (const jit::Value* part : concatenation.input(0)->node()->inputs()) {
    const auto begin = begin_of(part);
    if (begin && last && *begin < *last) return false;
    last = begin;
  }
  return true;
}

}  // namespace moetap::hooks
