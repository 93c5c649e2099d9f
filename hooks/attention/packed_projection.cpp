#include "hooks/attention/packed_projection.h"

#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/passes/inliner.h>

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The operator's mask tells what is left out: of any type, not 0; [queries, keys] (mask_type 0), [batch, keys] (1), or
// [batch, heads, queries, keys].
constexpr const char* kSource = R"(
def packed_projection(query: Tensor, key: Tensor, num_heads: int, weight: Tensor, bias: Tensor, mask: Optional[Tensor],
                      mask_type: Optional[int]) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
    width = weight.size(1)
    q = torch.linear(query, weight[:width], bias[:width])
    k = torch.linear(key, weight[width:2 * width], bias[width:2 * width])
    q = q.view([q.size(0), q.size(1), num_heads, -1]).transpose(1, 2)
    k = k.view([k.size(0), k.size(1), num_heads, -1]).transpose(1, 2)
    keeps: Optional[Tensor] = None
    if mask is not None:
        kept = mask.eq(0)
        if kept.dim() == 2 and mask_type is not None:
            if mask_type == 1:
                kept = kept.unsqueeze(1).unsqueeze(1)
        keeps = kept
    return q, k, keeps
)";

}  // namespace

PackedQueryAndKey insert_packed_projection(jit::Node* attention) {
  const auto input = [&](const char* name) { return attention->namedInput(name); };
  static const std::shared_ptr<jit::CompilationUnit> unit = [] {
    auto compiled = std::make_shared<jit::CompilationUnit>();
    compiled->define(std::nullopt, kSource, jit::nativeResolver(), nullptr);
    return compiled;
  }();
  auto source = jit::toGraphFunction(unit->get_function("packed_projection")).graph()->copy();
  jit::Inline(*source);
  jit::Graph& graph = *attention->owningGraph();
  const auto made = jit::insertGraph(graph, *source,
                                     {input("query"), input("key"), input("num_head"), input("qkv_weight"),
                                      input("qkv_bias"), input("mask"), input("mask_type")});
  jit::Node* tuple = made.at(0)->node();
  return {tuple->input(0), tuple->input(1), tuple->input(2)};
}

}  // namespace moetap::hooks
