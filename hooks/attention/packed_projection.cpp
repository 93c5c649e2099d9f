#include "hooks/attention/packed_projection.h"

#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <string>
#include <vector>

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The operator's mask tells what is left out: of any type, not 0; [queries, keys] (mask_type 0), [batch, keys] (1), or
// [batch, heads, queries, keys].
constexpr const char* kSource = R"(
def projected(query: Tensor, key: Tensor, num_heads: int, weight: Tensor, bias: Tensor, mask: Optional[Tensor],
              mask_type: Optional[int]) -> Tuple[Optional[Tensor], Optional[Tensor], Optional[Tensor]]:
    q: Optional[Tensor] = None
    k: Optional[Tensor] = None
    keeps: Optional[Tensor] = None
    if not query.is_nested and not key.is_nested:
        width = weight.size(1)
        of_query = torch.linear(query, weight[:width], bias[:width])
        of_key = torch.linear(key, weight[width:2 * width], bias[width:2 * width])
        q = of_query.view([of_query.size(0), of_query.size(1), num_heads, -1]).transpose(1, 2)
        k = of_key.view([of_key.size(0), of_key.size(1), num_heads, -1]).transpose(1, 2)
        if mask is not None:
            kept = mask.eq(0)
            if kept.dim() == 2 and mask_type is not None:
                if mask_type == 1:
                    kept = kept.unsqueeze(1).unsqueeze(1)
            keeps = kept
    return q, k, keeps

def layer_projected(x: Tensor, num_heads: int, weight: Tensor, bias: Tensor, norm_first: bool, eps: float,
                    norm_weight: Tensor, norm_bias: Tensor, mask: Optional[Tensor],
                    mask_type: Optional[int]) -> Tuple[Optional[Tensor], Optional[Tensor], Optional[Tensor]]:
    if norm_first and not x.is_nested:
        x = torch.layer_norm(x, [x.size(-1)], norm_weight, norm_bias, eps)
    return projected(x, x, num_heads, weight, bias, mask, mask_type)
)";

// The graph of a function of kSource, to be copied into others.
std::shared_ptr<jit::Graph> source_graph(const char* function) {
  static const std::shared_ptr<jit::CompilationUnit> unit = [] {
    auto compiled = std::make_shared<jit::CompilationUnit>();
    compiled->define(std::nullopt, kSource, jit::nativeResolver(), nullptr);
    return compiled;
  }();
  auto graph = jit::toGraphFunction(unit->get_function(function)).graph()->copy();
  jit::Inline(*graph);
  return graph;
}

bool is_layer(const jit::Node& node) {
  return node.kind().toUnqualString() == std::string("_transformer_encoder_layer_fwd");
}

}  // namespace

bool is_packed_attention(const jit::Node& node) {
  if (node.kind().ns() != c10::namespaces::aten || node.maybeSchema() == nullptr) return false;
  return is_layer(node) || node.kind().toUnqualString() == std::string("_native_multi_head_attention");
}

jit::Value* packed_query(jit::Node* attention) {
  return attention->namedInput(is_layer(*attention) ? "src" : "query");
}

jit::Value* packed_key(jit::Node* attention) {
  return attention->namedInput(is_layer(*attention) ? "src" : "key");
}

jit::Value* packed_weight(jit::Node* attention) {
  return attention->namedInput("qkv_weight");
}

jit::Value* packed_num_heads(jit::Node* attention) {
  return attention->namedInput(is_layer(*attention) ? "num_heads" : "num_head");
}

PackedQueryAndKey insert_packed_projection(jit::Node* attention) {
  const auto input = [&](const char* name) { return attention->namedInput(name); };
  jit::Graph& graph = *attention->owningGraph();
  const std::vector<jit::Value*> end = {input("mask"), input("mask_type")};
  std::vector<jit::Value*> inputs;
  if (is_layer(*attention)) {
    inputs = {input("src"),        input("num_heads"), input("qkv_weight"),    input("qkv_bias"),
              input("norm_first"), input("eps"),       input("norm_weight_1"), input("norm_bias_1")};
  } else {
    inputs = {input("query"), input("key"), input("num_head"), input("qkv_weight"), input("qkv_bias")};
  }
  inputs.insert(inputs.end(), end.begin(), end.end());
  const auto source = source_graph(is_layer(*attention) ? "layer_projected" : "projected");
  const jit::Node* made = jit::insertGraph(graph, *source, inputs).at(0)->node();
  return {const_cast<jit::Value*>(made->input(0)), const_cast<jit::Value*>(made->input(1)),
          const_cast<jit::Value*>(made->input(2))};
}

}  // namespace moetap::hooks
