#include "hooks/attention/softmax_forms.h"

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

bool is_softmax(const std::string& name) {
  return name == "softmax" || name == "_softmax" || name == "special_softmax" || name == "_safe_softmax";
}

bool is_log_softmax(const std::string& name) {
  return name == "log_softmax" || name == "_log_softmax" || name == "special_log_softmax";
}

// The sum of `exponential` over one dimension, which stays with the size 1, perhaps with more added to it; empty: none.
std::optional<int64_t> summed_dim(jit::Value* divisor, const jit::Value* exponential, const MethodGraph& graph) {
  for (int steps = 0; steps < 4; ++steps) {
    divisor = without_copies(divisor);
    jit::Node* node = divisor->node();
    const std::string name = base_name(*node);
    if (name == "sum" && node->inputs().size() >= 3 && without_copies(node->input(0)) == exponential) {
      const auto dims = graph.constant_ints(node->input(1));
      const auto keeps = graph.constant(node->input(2));
      const bool one = dims && dims->size() == 1 && keeps && keeps->isBool() && keeps->toBool();
      return one ? dims->front() : std::nullopt;
    }
    if ((name != "add" && !name.starts_with("clamp")) || node->inputs().empty()) return std::nullopt;
    jit::Value* first = node->input(0);
    const bool second =
        name == "add" && is_tensor(node->input(1)) && base_name(*without_copies(node->input(1))->node()) == "sum";
    divisor = second ? node->input(1) : first;
  }
  return std::nullopt;
}

}  // namespace

std::optional<Softmax> match_softmax(jit::Node* node, const MethodGraph& graph) {
  const std::string name = base_name(*node);
  if (node->kind().ns() != c10::namespaces::aten || node->inputs().empty()) return std::nullopt;
  const auto with_dim = [&](jit::Value* scores, std::optional<int64_t> dim) {
    return dim ? std::optional(Softmax{node, scores, *dim}) : std::nullopt;
  };
  if (is_softmax(name) && node->inputs().size() >= 2) {
    return with_dim(node->input(0), graph.constant_int(node->input(1)));
  }
  if (name == "exp") {
    jit::Node* logarithm = without_copies(node->input(0))->node();
    if (!is_log_softmax(base_name(*logarithm)) || logarithm->inputs().size() < 2) return std::nullopt;
    return with_dim(logarithm->input(0), graph.constant_int(logarithm->input(1)));
  }
  if (name != "div" && name != "true_divide") return std::nullopt;
  jit::Value* exponential = without_copies(node->input(0));
  if (base_name(*exponential->node()) != "exp" || !is_tensor(node->input(1))) return std::nullopt;
  return with_dim(exponential->node()->input(0), summed_dim(node->input(1), exponential, graph));
}

}  // namespace moetap::hooks
