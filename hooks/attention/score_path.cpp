#include "hooks/attention/score_path.h"

#include <algorithm>
#include <set>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

bool is_largest(const jit::Value* value) {
  const jit::Node* node = value->node();
  const std::string name = base_name(*node);
  if (name == "detach") return is_largest(node->input(0));
  if (name == "maximum") return is_largest(node->input(0)) || is_largest(node->input(1));  // of a sink, too
  return name == "max" || name == "amax";
}

/// Goes back from the softmax, depth first.
class BackFromSoftmax {
 public:
  BackFromSoftmax(const ValueOrigins& origins, AttentionAxes& axes, bool one_is_parameter)
      : origins_(origins), axes_(axes), one_is_parameter_(one_is_parameter) {}

  bool follow(jit::Value* value) {
    if (!seen_.insert(value).second) return false;
    if (follow_node(value)) {
      path_.values.push_back(value);
      return true;
    }
    return false;
  }

  ScorePath path() { return std::move(path_); }

 private:
  bool is_wanted(const ScoreProduct& product) const {
    const bool left = origins_.is_activation(product.left), right = origins_.is_activation(product.right);
    if (!one_is_parameter_) return left && right;
    return left != right && (origins_.is_parameter(product.left) || origins_.is_parameter(product.right));
  }

  bool follow_node(jit::Value* value) {
    jit::Node* node = value->node();
    if (node->kind() == jit::prim::Param) {
      jit::Value* outer = axes_.graph().outer_of(value);
      return outer != nullptr && follow(outer);
    }
    if (node->kind() == jit::prim::If) {
      return std::any_of(node->blocks().begin(), node->blocks().end(),
                         [&](jit::Block* block) { return follow(block->outputs()[value->offset()]); });
    }
    if (const auto product = axes_.product(node)) {
      // What is added to a product can hold another: a bias that the query gives.
      if (is_wanted(*product)) {
        path_.product = *product;
        return true;
      }
      return base_name(*node) == "baddbmm" && follow(node->input(0));
    }
    if (node->inputs().empty()) return false;
    switch (op_kind(*node)) {
      case OpKind::kCopy:
      case OpKind::kReshape:
      case OpKind::kMoveAxis:
      case OpKind::kSlice:
      case OpKind::kMaskedFill:
      case OpKind::kRepeat:
        return follow(node->input(0));
      case OpKind::kElementwise:
      case OpKind::kMultiply:
      case OpKind::kWhere:
        return std::any_of(node->inputs().begin(), node->inputs().end(), [&](jit::Value* input) {
          return is_tensor(input) && origins_.is_activation(input) && follow(input);
        });
      case OpKind::kConcatenate: {
        if (base_name(*node) != "cat" || node->input(0)->node()->kind() != jit::prim::ListConstruct) return false;
        const auto parts = node->input(0)->node()->inputs();
        return std::any_of(parts.begin(), parts.end(), [&](jit::Value* part) { return follow(part); });
      }
      default:
        if (node->kind() == jit::prim::unchecked_cast || base_name(*node).ends_with("dropout")) {
          return follow(node->input(0));
        }
        return false;
    }
  }

  const ValueOrigins& origins_;
  AttentionAxes& axes_;
  const bool one_is_parameter_;
  std::set<const jit::Value*> seen_;
  ScorePath path_;
};

}  // namespace

std::optional<ScorePath> find_score_path(jit::Value* scores, const ValueOrigins& origins, AttentionAxes& axes,
                                         bool one_is_parameter) {
  BackFromSoftmax search(origins, axes, one_is_parameter);
  if (!search.follow(scores)) return std::nullopt;
  ScorePath path = search.path();
  path.places = path.product.places;
  for (size_t i = 1; i < path.values.size(); ++i) {
    jit::Value* value = path.values[i];
    if (value->node()->kind() == jit::prim::If || value->node()->kind() == jit::prim::Param) continue;
    const auto places = axes.through(value->node(), path.values[i - 1], path.places);
    if (!places) return std::nullopt;
    path.places = *places;
  }
  return path;
}

bool has_sinks(const ScorePath& path) {
  return std::any_of(path.values.begin() + 1, path.values.end(),
                     [](const jit::Value* value) { return op_kind(*value->node()) == OpKind::kConcatenate; });
}

jit::Value* scores_before_sinks(const ScorePath& path) {
  jit::Value* scores = path.values.back();
  for (size_t i = path.values.size() - 1; i > 0; --i) {
    jit::Node* node = path.values[i]->node();
    const bool cast = op_kind(*node) == OpKind::kCopy;
    const bool sinks = op_kind(*node) == OpKind::kConcatenate;
    const bool shifted = base_name(*node) == "sub" && node->input(0) == path.values[i - 1] &&
                         is_tensor(node->input(1)) && is_largest(node->input(1));
    if (!cast && !sinks && !shifted) break;
    if (!cast) scores = path.values[i - 1];
  }
  const auto at = std::find(path.values.begin(), path.values.end(), scores);
  const bool sinks_before = std::any_of(path.values.begin() + 1, at + 1, [](const jit::Value* value) {
    return op_kind(*value->node()) == OpKind::kConcatenate;
  });
  return sinks_before ? nullptr : scores;
}

}  // namespace moetap::hooks
