#include "hooks/attention/fused_attention.h"

#include <set>

#include "hooks/attention/packed_projection.h"
#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// Scaled dot product attention and what it decomposes into: query, key and value are [.., tokens, size of a head].
bool is_scaled_dot_product(const std::string& name) {
  static const std::set<std::string> names = {"scaled_dot_product_attention",
                                              "_scaled_dot_product_attention_math",
                                              "_scaled_dot_product_attention_math_for_mps",
                                              "_scaled_dot_product_flash_attention",
                                              "_scaled_dot_product_flash_attention_for_cpu",
                                              "_scaled_dot_product_efficient_attention",
                                              "_scaled_dot_product_cudnn_attention",
                                              "_scaled_dot_product_fused_attention_overrideable"};
  return names.count(name) > 0;
}

// [batch, heads, queries], natural, over all keys.
bool gives_log_sum_exp(const std::string& name) {
  return name == "_scaled_dot_product_flash_attention_for_cpu" || name == "_scaled_dot_product_flash_attention";
}

jit::Value* named(jit::Node* node, const char* name) {
  const c10::FunctionSchema* schema = node->maybeSchema();
  if (schema == nullptr) return nullptr;
  const auto place = schema->argumentIndexWithName(name);
  return place && static_cast<size_t>(*place) < node->inputs().size() ? node->input(static_cast<size_t>(*place))
                                                                      : nullptr;
}

jit::Value* unless_none(const MethodGraph& graph, jit::Value* value) {
  if (value == nullptr || value->type()->kind() == c10::TypeKind::NoneType) return nullptr;
  const auto constant = graph.constant(value);
  return constant && constant->isNone() ? nullptr : value;
}

}  // namespace

bool is_fused_attention(const jit::Node& node) {
  if (node.kind().ns() != c10::namespaces::aten) return false;
  const std::string name = node.kind().toUnqualString();
  return is_scaled_dot_product(name) || is_packed_attention(node) || name == "_flash_attention_forward" ||
         name == "_efficient_attention_forward" || name == "_triton_multi_head_attention";
}

std::optional<AttentionArm> fused_arm(jit::Node* node, AttentionAxes& axes) {
  const std::string name = node->kind().toUnqualString();
  AttentionArm arm;
  arm.node = arm.product = arm.applied = node;
  if (is_packed_attention(*node)) {
    arm.query = packed_query(node);
    arm.key = packed_key(node);
    arm.implementation = kPackedImplementation;
    arm.layout = "bhqk";
    return arm;
  }
  arm.query = named(node, "query");
  arm.key = named(node, "key");
  arm.output = node->output(0);
  if (gives_log_sum_exp(name)) arm.log_sum_exp = node->output(1);
  if (!is_scaled_dot_product(name) || arm.query == nullptr || arm.key == nullptr) return std::nullopt;
  jit::Value* mask = named(node, "attn_mask");
  if (mask == nullptr) mask = named(node, "attn_bias");
  arm.implementation = "sdpa";
  arm.mask = unless_none(axes.graph(), mask);
  arm.scale = unless_none(axes.graph(), named(node, "scale"));
  arm.causal = named(node, "is_causal");
  if (const auto layout = axes.fused_layout(arm.query)) {
    arm.layout = layout->letters;
    arm.num_heads = layout->num_heads;
  }
  return arm;
}

}  // namespace moetap::hooks
