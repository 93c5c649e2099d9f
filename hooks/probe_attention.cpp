#include "hooks/probe_attention.h"

#include <torch/csrc/jit/ir/constants.h>

#include <unordered_map>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The inputs of a `moetap::attention`, see operator_schemas.h.
constexpr size_t kHook = 1, kQuery = 2, kKey = 3, kMask = 4, kProbabilities = 5, kScale = 8, kCausal = 9,
                 kNumHeads = 10, kLayout = 11;

jit::Symbol attention_symbol() {
  static const jit::Symbol kind = jit::Symbol::fromQualString("moetap::attention");
  return kind;
}

std::optional<Reported> read_input(jit::Node* node, size_t input, const InPlaceWrites& writes) {
  if (!is_tensor(node->input(input))) return std::nullopt;
  Reported reported = follow_back(node->input(input), writes);
  // What nothing else reads is computed for the report.
  if (reported.source != nullptr && reported.source->uses().size() == 1) reported.source = nullptr;
  return reported;
}

std::optional<size_t> value_input(const jit::Node* fused) {
  const c10::FunctionSchema* schema = fused->maybeSchema();
  if (schema == nullptr) return std::nullopt;
  const auto place = schema->argumentIndexWithName("value");
  return place ? std::optional(static_cast<size_t>(*place)) : std::nullopt;
}

/// Finds the first product of the probabilities with what does not depend on them, or the operator that makes them and
/// the product at once.
void find_applied(const MethodGraph& method, AttentionNode& attention) {
  // Whether what depends on the reported values is past the product of query and key.
  std::unordered_map<const jit::Value*, bool> dependent;
  for (const auto* reported : {&attention.query, &attention.key, &attention.probabilities}) {
    if (*reported && (*reported)->source != nullptr) {
      dependent.emplace((*reported)->source, reported == &attention.probabilities);
    }
  }
  if (attention.probabilities && attention.probabilities->source == nullptr) {
    // What the pass has copied for the report is made of what the model makes.
    const jit::Value* root = attention.probabilities->value;
    while (root->uses().size() == 1 && root->node()->kind() != jit::prim::Param && !root->node()->inputs().empty()) {
      root = root->node()->input(0);
    }
    dependent.emplace(root, true);
  }
  for (jit::Node* node : method.nodes()) {
    if (reads_no_elements(node) || node->kind() == attention_symbol()) continue;
    std::optional<size_t> factor;
    bool is_product = false;
    for (size_t i = 0; i < node->inputs().size(); ++i) {
      const auto found = dependent.find(node->input(i));
      if (found == dependent.end()) continue;
      if (!factor) factor = is_tensor(node->input(i)) ? i : node->inputs().size();  // of a list only elements are seen
      is_product |= found->second;
    }
    for (const jit::Value* input : flat_inputs(node)) {
      const auto found = dependent.find(input);
      if (found == dependent.end()) continue;
      if (!factor) factor = node->inputs().size();  // an element of a list
      is_product |= found->second;
    }
    if (!factor) continue;
    const OpKind kind = op_kind(*node);
    const bool fuses = kind == OpKind::kMixOther && value_input(node);
    if (fuses || (kind == OpKind::kContract && is_product)) {
      attention.applied = node;
      attention.factor = *factor;
      if (fuses) attention.value = value_input(node);
      return;
    }
    if (kind == OpKind::kMixOther) return;  // a norm, say
    for (const jit::Value* result : results_of(node)) {
      dependent.emplace(result, is_product || kind == OpKind::kContract);
    }
  }
}

}  // namespace

std::vector<AttentionNode> read_attentions(const MethodGraph& method, const InPlaceWrites& writes) {
  std::vector<AttentionNode> attentions;
  for (jit::Node* node : method.nodes()) {
    if (node->kind() != attention_symbol()) continue;
    AttentionNode attention;
    attention.node = node;
    attention.hook = jit::constant_as<int64_t>(node->input(kHook)).value();
    attention.query = read_input(node, kQuery, writes);
    attention.key = read_input(node, kKey, writes);
    attention.probabilities = read_input(node, kProbabilities, writes);
    attention.causal = jit::constant_as<bool>(node->input(kCausal));
    const auto scale = jit::toIValue(node->input(kScale));
    if (scale) attention.scale = scale->isNone() ? std::optional<double>() : std::optional(scale->toDouble());
    find_applied(method, attention);
    attentions.push_back(std::move(attention));
  }
  return attentions;
}

ProbedAttention probe_attention(const AttentionNode& attention, const HookPoint& hook, Probes& probes) {
  ProbedAttention probed;
  probed.hook = hook;
  probed.scale = attention.scale;
  probed.causal = attention.causal;
  probed.num_heads = jit::constant_as<int64_t>(attention.node->input(kNumHeads)).value();
  probed.layout = jit::toIValue(attention.node->input(kLayout)).value().toStringRef();
  const auto on = [&](const std::optional<Reported>& reported, size_t input) -> std::optional<ProbedValue> {
    if (!reported) return std::nullopt;
    ProbedValue value;
    if (reported->source != nullptr) {
      value.source = probes.on(reported->source, reported->after);
      value.steps = reported->steps;
    }
    value.reported = probes.on_input(attention.node, input, attention.node);
    return value;
  };
  probed.query = on(attention.query, kQuery);
  probed.key = on(attention.key, kKey);
  probed.probabilities = on(attention.probabilities, kProbabilities);
  if (is_tensor(attention.node->input(kMask))) {
    probed.mask = probes.on_input(attention.node, kMask, attention.node);
  }
  jit::Node* applied = attention.applied;
  if (applied == nullptr) return probed;
  if (attention.factor < applied->inputs().size()) probed.factor = probes.on_input(applied, attention.factor, applied);
  if (attention.value) probed.value = probes.on_input(applied, *attention.value, applied);
  probed.applied = probes.on(applied->output(0));
  return probed;
}

}  // namespace moetap::hooks
