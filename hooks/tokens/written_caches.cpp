// What TokenFlow knows of caches that a method writes into: those of a fixed length, of which a forward fills a part.

#include <algorithm>

#include "hooks/graph/op_traits.h"
#include "hooks/tokens/token_flow.h"
#include "hooks/tokens/token_packing.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// True for what takes an element out of a list or a tuple.
bool takes_element(const jit::Node& node) {
  return node.kind() == jit::aten::__getitem__ || node.kind() == jit::prim::ListUnpack ||
         node.kind() == jit::prim::TupleUnpack || node.kind() == jit::prim::TupleIndex;
}

// True for elements that are taken alike: the same of a tuple, any of a list.
bool are_taken_alike(const jit::Value* a, const jit::Value* b, const MethodGraph& graph) {
  const auto place_in_tuple = [&](const jit::Value* value) -> std::optional<int64_t> {
    const auto kind = value->node()->kind();
    if (kind == jit::prim::TupleUnpack) return static_cast<int64_t>(value->offset());
    return kind == jit::prim::TupleIndex ? graph.constant_int(value->node()->input(1)) : -1;
  };
  while (takes_element(*a->node()) && takes_element(*b->node())) {
    if (place_in_tuple(a) != place_in_tuple(b)) return false;
    a = a->node()->input(0);
    b = b->node()->input(0);
  }
  return a == b;
}

// Seen through what makes a part or a view of a value.
const jit::Value* part_of(const jit::Value* value, const MethodGraph& graph) {
  while (true) {
    if (const jit::Value* outer = graph.outer_of(value)) {
      value = outer;
      continue;
    }
    const jit::Node& node = *value->node();
    const bool written = op_kind(node) == OpKind::kIndexWrite || op_kind(node) == OpKind::kScatter;
    const bool cuts = op_kind(node) == OpKind::kSplit;
    if (node.inputs().empty() || (!takes_element(node) && !cuts && !written && !may_be_view(node))) return value;
    value = node.input(0);
  }
}

}  // namespace

bool TokenFlow::is_cache(const jit::Value* value) const {
  value = part_of(value, graph_);
  const auto found = std::find(arguments_.begin(), arguments_.end(), value);
  if (found != arguments_.end()) return !is_state_[static_cast<size_t>(found - arguments_.begin())];
  const auto inputs = graph_.graph()->inputs().slice(1);
  return std::find(inputs.begin(), inputs.end(), value) != inputs.end() || !graph_.attribute_path(value).empty();
}

void TokenFlow::find_written_parts() {
  for (const jit::Node* node : graph_.nodes()) {
    const std::string name = base_name(*node);
    const bool copies = node->kind() == jit::aten::copy_, writes = is_in_place(*node) && name == "index_copy";
    const bool puts = is_in_place(*node) && name == "index_put";
    if ((!copies && !writes && !puts) || !is_cache(node->input(0))) continue;
    WrittenPart part;
    const jit::Value* root = part_of(node->input(0), graph_);
    part.attribute = graph_.attribute_path(root);
    part.argument = part.attribute.empty() ? root : nullptr;
    const jit::Value* index = nullptr;
    std::optional<int64_t> along;
    if (writes) {
      along = graph_.constant_int(node->input(1));
      index = node->input(2);
    } else if (puts && node->input(1)->node()->kind() == jit::prim::ListConstruct) {
      const auto indices = node->input(1)->node()->inputs();
      for (size_t i = 0; i < indices.size(); ++i) {
        if (indices[i]->type()->kind() == c10::TypeKind::NoneType) continue;
        along = static_cast<int64_t>(i);
        index = indices[i];
      }
    }
    // The dimensions are those of what is sliced or selected from: the cache, or an element of a list of caches.
    std::vector<int64_t> dims;
    const jit::Value* sliced = node->input(0);
    for (; sliced != root; sliced = sliced->node()->input(0)) {
      // An element of those that `unbind` gives is one that is selected.
      const bool unbound =
          takes_element(*sliced->node()) && sliced->node()->input(0)->node()->kind() == jit::aten::unbind;
      if (unbound) sliced = sliced->node()->input(0);
      if (takes_element(*sliced->node())) break;
      const jit::Node& view = *sliced->node();
      const bool selects = unbound || op_kind(view) == OpKind::kSelect;
      if (op_kind(view) == OpKind::kCopy) continue;
      const auto dim = selects || op_kind(view) == OpKind::kSlice ? graph_.constant_int(view.input(1)) : std::nullopt;
      if (!dim || (selects && *dim < 0)) break;
      if (selects) {
        for (int64_t& own : dims) own += own >= *dim ? 1 : 0;
        if (along && *along >= *dim) ++*along;
      } else if (copies && (!graph_.constant(view.input(2)) || !graph_.constant(view.input(3)))) {
        dims.push_back(*dim);  // places that differ from forward to forward
      }
    }
    const bool of_list = sliced != root && takes_element(*sliced->node());
    if (sliced != root && !of_list) continue;
    // Every later use of an argument that is written itself is one of the operator's result, which tells it.
    const bool is_told = part.argument != nullptr && node->input(0) == root;
    const jit::Value* written = node->input(copies ? 1 : writes ? 3 : 2);
    if (is_told || !origins_.is_activation(written)) continue;
    if (index != nullptr) {
      if (!along || holds_bools(index, graph_)) continue;
      part.places = argument_of_numbers(index, *this, graph_);
      dims = {*along};
    }
    if (of_list) part.element = sliced, part.written = written;
    for (const int64_t dim : dims) {
      part.dim = dim;
      written_parts_.push_back(part);
    }
  }
}

// `owner`: of the symbol.
void TokenFlow::mark_written(std::vector<Axis>& axes, const WrittenPart& part, const void* owner) {
  const int64_t rank = static_cast<int64_t>(axes.size()), dim = part.dim < 0 ? part.dim + rank : part.dim;
  if (dim < 0 || dim >= rank) return;
  axes[static_cast<size_t>(dim)] = symbols_.buffer(owner, dim, part.places);
}

AxisFact TokenFlow::cache_in_list(const jit::Value* element) {
  AxisFact found = unknown_fact();
  if (!is_tensor(element)) return found;
  for (const WrittenPart& part : written_parts_) {
    if (part.element == nullptr || !are_taken_alike(element, part.element, graph_)) continue;
    if (!found.axes) found.axes = of(part.written).axes;
    if (found.axes) mark_written(*found.axes, part, &part);
  }
  return found;
}

}  // namespace moetap::hooks
