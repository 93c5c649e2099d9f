#include "hooks/routers/router_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "hooks/graph/op_traits.h"
#include "hooks/routers/tensor_lists.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

const jit::Value* behind_copies(const jit::Value* value) {
  while (op_kind(*value->node()) == OpKind::kCopy || op_kind(*value->node()) == OpKind::kReshape) {
    value = value->node()->input(0);
  }
  return value;
}

// The node that reads what is projected: of projections that are joined or written out, a node before the projection's.
jit::Node* reader_of(const Projection& projection) {
  jit::Node* node = projection.node;
  if (op_kind(*node) == OpKind::kConcatenate) {
    const std::vector<jit::Value*> parts = list_elements(node->input(0));
    if (parts.empty()) return nullptr;
    node = const_cast<jit::Node*>(behind_copies(parts.back())->node());
  }
  if (base_name(*node) == "sum") node = node->input(0)->node();
  return node;
}

// A convolution reads single tokens if its kernel has one element. Its features lie before the kernel's dimensions.
std::optional<int64_t> feature_dim_of_convolution(const MethodGraph& graph, const Projection& projection) {
  const auto constant = graph.constant(behind_copies(projection.parameter));
  if (!constant || !constant->isTensor() || !constant->toTensor().defined()) return std::nullopt;
  const at::Tensor weight = constant->toTensor();
  const auto kernel = weight.sizes().slice(std::min<size_t>(2, static_cast<size_t>(weight.dim())));
  if (kernel.empty() || std::any_of(kernel.begin(), kernel.end(), [](int64_t size) { return size != 1; })) {
    return std::nullopt;
  }
  return -static_cast<int64_t>(kernel.size()) - 1;
}

// The letters of an equation's operand; "..." as one dot.
std::string letters_of(std::string_view term) {
  std::string letters;
  for (const char letter : term) {
    if (letter != ' ' && !(letter == '.' && letters.ends_with('.'))) letters += letter;
  }
  return letters;
}

// "bsh,eh->bse": the one letter that both operands have and the result lacks. The activation's other letters must
// stand in the result in their order.
std::optional<int64_t> feature_dim_of_einsum(const MethodGraph& graph, const Projection& projection) {
  const auto constant = graph.constant(projection.node->input(0));
  if (!constant || !constant->isString() || projection.node->inputs().size() < 2) return std::nullopt;
  const std::string equation = constant->toStringRef();
  const size_t comma = equation.find(','), arrow = equation.find("->");
  if (comma == std::string::npos || arrow == std::string::npos || arrow < comma) return std::nullopt;
  std::string read = letters_of(std::string_view(equation).substr(0, comma));
  std::string other = letters_of(std::string_view(equation).substr(comma + 1, arrow - comma - 1));
  const std::string result = letters_of(std::string_view(equation).substr(arrow + 2));
  const std::vector<jit::Value*> operands = list_elements(projection.node->input(1));
  if (operands.size() != 2 || other.find(',') != std::string::npos) return std::nullopt;
  if (operands[1] == projection.activation) std::swap(read, other);
  const auto has = [](const std::string& letters, char letter) { return letters.find(letter) != std::string::npos; };
  std::string features, tokens, kept;
  for (const char letter : read) (has(other, letter) && !has(result, letter) ? features : tokens) += letter;
  for (const char letter : result) {
    if (has(read, letter)) kept += letter;
  }
  if (features.size() != 1 || tokens != kept) return std::nullopt;
  const size_t place = read.find(features);
  if (has(read.substr(place), '.')) return std::nullopt;
  return static_cast<int64_t>(place) - static_cast<int64_t>(read.size());
}

std::optional<int64_t> feature_dim(const MethodGraph& graph, const Projection& projection, const jit::Node& reader) {
  static const std::set<std::string> features_last = {"linear", "mm", "matmul", "bmm", "addmm", "baddbmm", "inner"};
  const std::string name = base_name(reader);
  if (name == "einsum") return feature_dim_of_einsum(graph, projection);
  if (name.starts_with("conv") || name == "_convolution") return feature_dim_of_convolution(graph, projection);
  if (op_kind(reader) == OpKind::kMultiply) return -1;  // summed over the last dimension
  if (name == "cdist") return reader.input(0) == projection.activation ? std::optional<int64_t>(-1) : std::nullopt;
  if (!features_last.contains(name)) return std::nullopt;
  const bool summed = name == "addmm" || name == "baddbmm";
  const bool weight_first =
      name != "linear" && name != "inner" && reader.input(summed ? 2 : 1) == projection.activation;
  return weight_first ? -2 : -1;
}

}  // namespace

RouterInput router_input(const MethodGraph& graph, const FoundRouter& router) {
  const auto missing = [](std::string why) { return RouterInput{nullptr, nullptr, -1, std::move(why)}; };
  const Projection& projection = router.projection;
  if (projection.node == nullptr) return missing("no projection of it is known");
  jit::Node* reader = reader_of(projection);
  if (reader == nullptr) return missing("no projection of it is known");
  const std::string name = base_name(*reader);
  const auto inputs = reader->inputs();
  const bool reads = name == "einsum" || std::find(inputs.begin(), inputs.end(), projection.activation) != inputs.end();
  const auto dim = reads ? feature_dim(graph, projection, *reader) : std::nullopt;
  if (!dim) return missing(fmt::format("where its features lie in what {} reads is not known", name));
  if (!router.keeps_token_order) {
    return missing("between its projection and the choice of experts, its tokens may change their order");
  }
  return {projection.activation, reader, *dim, ""};
}

}  // namespace moetap::hooks
