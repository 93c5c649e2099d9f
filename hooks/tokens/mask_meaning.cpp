#include "hooks/tokens/mask_meaning.h"

#include <set>
#include <utility>
#include <vector>

#include "hooks/graph/known_numbers.h"
#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

/// What a value is that was made of the mask.
enum class Made {
  kSame,      // not 0 where the mask is not 0
  kInverted,  // not 0 where the mask is 0
  kMinusOne,  // -1 where the mask is 0, 0 where it is 1
  kNegated,   // -1 where the mask is 1: on the way to 1 - mask
};

class MaskUses {
 public:
  MaskUses(const MethodGraph& graph, const ValueOrigins& origins) : graph_(graph), origins_(origins) {}

  MaskMeans meaning(const jit::Value* argument) {
    follow(argument, Made::kSame);
    while (!open_.empty()) {
      const auto [value, made] = open_.back();
      open_.pop_back();
      for (const jit::Use& use : value->uses()) visit(use, made);
    }
    return votes_.size() == 1 ? *votes_.begin() : MaskMeans::kAuto;
  }

 private:
  void follow(const jit::Value* value, Made made) {
    if (seen_.insert({value, made}).second) open_.emplace_back(value, made);
  }

  /// `made` is not 0 for tokens that stay (`stay`), or for those that are dropped.
  void vote(Made made, bool stay) {
    if (made == Made::kMinusOne || made == Made::kNegated) return;
    votes_.insert((made == Made::kSame) == stay ? MaskMeans::kValid : MaskMeans::kPadding);
  }

  std::optional<double> number(const jit::Value* value) const {
    if (const jit::Node* node = value->node(); op_kind(*node) == OpKind::kFresh) {  // full, full_like, tensor
      for (const jit::Value* input : node->inputs()) {
        const auto kind = input->type()->kind();
        const bool is_fill =
            base_name(*node).rfind("full", 0) == 0 || base_name(*node).find("tensor") != std::string::npos;
        if (is_fill && (kind == c10::TypeKind::FloatType || kind == c10::TypeKind::NumberType)) return number(input);
      }
      return std::nullopt;
    }
    return constant_number(graph_, value);
  }

  bool is_very_negative(const jit::Value* value) const {
    const auto found = number(value);
    return found && *found <= kVeryNegative;
  }

  static Made opposite(Made made) { return made == Made::kSame ? Made::kInverted : Made::kSame; }

  void compare(const jit::Node* node, size_t place, Made made) {
    const auto with = number(node->input(1 - place));
    if (!with || made == Made::kMinusOne || made == Made::kNegated) return;
    std::string name = base_name(*node);
    if (place == 1) name = name == "lt" ? "gt" : name == "gt" ? "lt" : name == "le" ? "ge" : name == "ge" ? "le" : name;
    const bool zero = *with == 0, one = *with == 1;
    const bool same = (name == "eq" && one) || (name == "ne" && zero) || (name == "gt" && *with >= 0 && *with < 1) ||
                      (name == "ge" && *with > 0 && *with <= 1);
    const bool other = (name == "eq" && zero) || (name == "ne" && one) || (name == "lt" && *with > 0 && *with <= 1) ||
                       (name == "le" && *with >= 0 && *with < 1);
    if (same) follow(node->output(), made);
    if (other) follow(node->output(), opposite(made));
  }

  void visit_multiply(const jit::Node* node, size_t place, Made made) {
    const jit::Value* other = node->input(1 - place);
    const auto by = number(other);
    if (by && *by <= kVeryNegative) {
      vote(made, /*stay=*/false);
    } else if (by && *by >= -kVeryNegative && (made == Made::kMinusOne || made == Made::kNegated)) {
      votes_.insert(made == Made::kMinusOne ? MaskMeans::kValid : MaskMeans::kPadding);
    } else if (!by && origins_.is_activation(other)) {
      vote(made, /*stay=*/true);
    } else if (!by && is_tensor(other)) {
      follow(node->output(), made);  // of two masks
    }
  }

  void visit(const jit::Use& use, Made made) {
    const jit::Node* node = use.user;
    const size_t place = use.offset;
    if (node->kind() == jit::prim::Return) {
      const jit::Node* owner = node->owningBlock()->owningNode();
      if (owner != nullptr && owner->kind() == jit::prim::If) follow(owner->output(place), made);
      return;
    }
    if (auto subgraph = fork_subgraph(node)) {
      follow(subgraph->inputs()[place], made);
      return;
    }
    if (node->outputs().size() != 1) return;
    const std::string name = base_name(*node);
    if (name == "scaled_dot_product_attention") {
      // A mask of numbers is added there, one of bools marks what stays: its type tells.
      if (place == 3 && made == Made::kInverted) vote(made, /*stay=*/true);
      return;
    }
    if (name == "logical_not" || name == "bitwise_not" || name == "__not__") {
      if (made == Made::kSame || made == Made::kInverted) follow(node->output(), opposite(made));
      return;
    }
    if (name == "neg" && made == Made::kSame) return follow(node->output(), Made::kNegated);
    if (name == "add" && made == Made::kNegated && place < 2 && number(node->input(1 - place)) == 1.0) {
      return follow(node->output(), Made::kInverted);
    }
    if (name == "rsub" && place == 0 && number(node->input(1)) == 1.0 &&
        (made == Made::kSame || made == Made::kInverted)) {
      return follow(node->output(), opposite(made));
    }
    if ((name == "sub" || name == "subtract") && made == Made::kSame) {
      if (place == 1 && number(node->input(0)) == 1.0) follow(node->output(), Made::kInverted);
      if (place == 0 && number(node->input(1)) == 1.0) follow(node->output(), Made::kMinusOne);
      return;
    }
    switch (op_kind(*node)) {
      case OpKind::kCopy:
      case OpKind::kReshape:
      case OpKind::kMoveAxis:
      case OpKind::kRepeat:
      case OpKind::kSlice:
      case OpKind::kSelect:
      case OpKind::kIndex:
        if (place == 0) follow(node->output(), made);
        return;
      case OpKind::kCompare:
        if (node->inputs().size() == 2) compare(node, place, made);
        return;
      case OpKind::kLogical: {
        if (name == "bool") follow(node->output(), made);
        // `stays & stays`, `dropped | dropped`
        if (name == "__and__" || name == "logical_and" || name == "bitwise_and" || name == "__or__" ||
            name == "logical_or" || name == "bitwise_or") {
          follow(node->output(), made);
        }
        return;
      }
      case OpKind::kMaskedFill: {
        if (place != 1) return;
        const auto value = number(node->input(2));
        const bool clears_states = value == 0.0 && origins_.is_activation(node->input(0));
        if ((value && *value <= kVeryNegative) || clears_states) vote(made, /*stay=*/false);
        return;
      }
      case OpKind::kWhere:
        if (place != 0 || node->inputs().size() != 3) return;
        if (is_very_negative(node->input(1))) vote(made, /*stay=*/false);
        if (is_very_negative(node->input(2))) vote(made, /*stay=*/true);
        return;
      case OpKind::kMultiply:
        if (node->inputs().size() == 2) visit_multiply(node, place, made);
        return;
      case OpKind::kElementwise:
        if (name == "add" && made == Made::kSame && place < 2 && origins_.is_activation(node->input(1 - place))) {
          votes_.insert(MaskMeans::kAdditive);
        }
        return;
      default:
        return;
    }
  }

  static constexpr double kVeryNegative = -50;  // nothing is left of a token after a softmax

  const MethodGraph& graph_;
  const ValueOrigins& origins_;
  std::set<std::pair<const jit::Value*, Made>> seen_;
  std::vector<std::pair<const jit::Value*, Made>> open_;
  std::set<MaskMeans> votes_;
};

}  // namespace

MaskMeans mask_meaning(const MethodGraph& graph, const ValueOrigins& origins, const jit::Value* argument) {
  return MaskUses(graph, origins).meaning(argument);
}

}  // namespace moetap::hooks
