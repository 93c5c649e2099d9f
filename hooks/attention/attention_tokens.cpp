#include "hooks/attention/attention_tokens.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "hooks/attention/attention_sources.h"
#include "hooks/attention/packed_projection.h"
#include "hooks/graph/op_traits.h"
#include "hooks/points/token_sequence.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// True for `einsum("...qd,...kd->...qk")`, whatever its letters.
bool is_dotted_query_key(const jit::Node& einsum) {
  const auto text = jit::toIValue(einsum.input(0));
  if (!text || !text->isString()) return false;
  std::string equation = text->toStringRef();
  std::erase(equation, ' ');
  return equation.size() == 18 && equation.starts_with("...") && equation.substr(5, 4) == ",..." &&
         equation[4] == equation[10] && equation.substr(11, 5) == "->..." && equation[16] == equation[3] &&
         equation[17] == equation[9];
}

// The dimensions of a value whose letters are `letters` that are not the tokens at letter `tokens` ('q' or 'k').
std::vector<LeftOutDim> all_but(const std::string& letters, char tokens, int64_t merged_heads) {
  std::vector<LeftOutDim> out;
  for (size_t i = 0; i < letters.size(); ++i) {
    if (letters[i] == 'b' || letters[i] == tokens) continue;
    out.push_back({static_cast<int64_t>(i), letters[i] == 'm' ? merged_heads : 0});
  }
  return out;
}

struct BothLayouts {
  TokenLayout queries, keys;
};

// True if query and key are laid out as those of a fused operator.
bool is_like_fused(const AttentionArm& arm) {
  return arm.is_fused() || (arm.implementation == "einsum" && is_dotted_query_key(*arm.product));
}

BothLayouts layouts_of(const AttentionArm& arm, const TokenLayouts& layouts) {
  if (arm.implementation == kPackedImplementation) return {layouts.of(arm.query, -1), layouts.of(arm.key, -1)};
  if (arm.is_fused()) {
    // The last letter is that of the size of a head, also of the key.
    const auto out = all_but(arm.layout, 'q', arm.num_heads);
    return {layouts.of(arm.query, out), layouts.of(arm.key, out)};
  }
  BothLayouts both;
  for (const jit::Value* value : {arm.scores, arm.probabilities}) {
    if (value == nullptr) continue;
    if (!both.queries.known) both.queries = layouts.of(value, all_but(arm.layout, 'q', arm.num_heads));
    if (!both.keys.known) both.keys = layouts.of(value, all_but(arm.layout, 'k', arm.num_heads));
  }
  if (!is_like_fused(arm)) return both;
  // Query [.., queries, size] and key [.., keys, size], which an `einsum` with dots leaves where they are.
  const auto out = all_but(arm.layout, 'q', arm.num_heads);
  if (!both.queries.known) both.queries = layouts.of(arm.query, out);
  if (!both.keys.known) both.keys = layouts.of(arm.key, out);
  return both;
}

// Whether the sequences of two layouts are one: the same, or the queries beside a cache. Empty: not known.
std::optional<bool> is_same_sequence(const TokenLayout& queries, const TokenLayout& keys) {
  const TokenDim *query = sequence_of(queries), *key = sequence_of(keys);
  if (query == nullptr || key == nullptr) return std::nullopt;
  if (share_argument(*query, *key)) return true;
  if (!query->parts.empty() && query->parts == key->parts) return true;
  if (query->parts.empty() && !key->parts.empty()) {
    return std::any_of(key->parts.begin(), key->parts.end(),
                       [&](const TokenDim& part) { return share_argument(*query, part); });
  }
  if (query->arguments.empty() || key->arguments.empty() || !query->parts.empty()) return std::nullopt;
  return false;
}

std::optional<int64_t> constant_at(const TokenFlow& flow, const jit::Value* value, size_t dim) {
  const auto& axes = flow.of(value).axes;
  return axes && dim < axes->size() ? constant_size((*axes)[dim]) : std::nullopt;
}

std::optional<int64_t> heads_of(const AttentionArm& arm, const jit::Value* value, const TokenFlow& flow) {
  if (arm.num_heads > 0) return arm.num_heads;
  int64_t heads = 1;
  for (size_t i = 0; i < arm.layout.size(); ++i) {
    if (std::string("hgr").find(arm.layout[i]) == std::string::npos) continue;
    const auto size = constant_at(flow, value, i);
    if (!size) return std::nullopt;
    heads *= *size;
  }
  return heads;
}

// Heads of keys: those of the key before it was repeated for the heads of queries.
std::optional<int64_t> key_heads_of(const AttentionArm& arm, const TokenFlow& flow) {
  if (arm.key == nullptr) return std::nullopt;
  const jit::Value* value = arm.key;
  while (!value->node()->inputs().empty() && is_tensor(value->node()->input(0))) {
    const jit::Node* node = value->node();
    const OpKind kind = op_kind(*node);
    if (kind == OpKind::kRepeat) return constant_at(flow, node->input(0), 1);
    if (kind != OpKind::kCopy && kind != OpKind::kReshape && kind != OpKind::kMoveAxis && kind != OpKind::kSlice) break;
    value = node->input(0);
  }
  const size_t heads = arm.layout.find('h');
  if (!arm.is_fused() || heads == std::string::npos) return std::nullopt;
  return constant_at(flow, arm.key, heads);
}

// True if the keys are all places of a buffer, into which those of the forward are written: a static cache.
bool has_keys_in_buffer(const AttentionArm& arm, const TokenFlow& flow) {
  const auto is_buffer = [&](const jit::Value* value, size_t dim) {
    if (value == nullptr || dim == std::string::npos) return false;
    const auto& axes = flow.of(value).axes;
    if (!axes || dim >= axes->size() || (*axes)[dim].size() != 1 || (*axes)[dim][0].is_constant()) return false;
    return flow.symbols().buffer_of(flow.symbols().class_of((*axes)[dim][0].symbol)) != nullptr;
  };
  if (is_like_fused(arm)) return is_buffer(arm.key, arm.layout.find('q'));
  const size_t keys = arm.layout.find('k');
  return is_buffer(arm.scores, keys) || is_buffer(arm.probabilities, keys);
}

}  // namespace

void describe_tokens(FoundAttention& attention, const MethodGraph& graph, const ValueOrigins& origins,
                     const TokenLayouts& layouts) {
  for (const AttentionArm& arm : attention.arms) {
    BothLayouts both = layouts_of(arm, layouts);
    if (both.queries.packed) both.queries = {};  // tokens of all samples, one behind the other: no batch of queries
    if (both.keys.packed) both.keys = {};
    if (!attention.tokens.known) attention.tokens = std::move(both.queries);
    if (!attention.key_tokens.known) attention.key_tokens = std::move(both.keys);
    if (arm.implementation == kPackedImplementation) {
      attention.num_heads = attention.num_key_heads = graph.constant_int(packed_num_heads(arm.node));
    }
    const TokenFlow& flow = layouts.flow();
    attention.keys_in_buffer = attention.keys_in_buffer || has_keys_in_buffer(arm, flow);
    for (const jit::Value* value : {arm.probabilities, is_like_fused(arm) ? arm.query : nullptr}) {
      if (value != nullptr && !attention.num_heads) attention.num_heads = heads_of(arm, value, flow);
    }
    if (!attention.num_key_heads) attention.num_key_heads = key_heads_of(arm, flow);
  }
  const bool is_same = is_same_sequence(attention.tokens, attention.key_tokens).value_or(false);
  // A mask over the cache shares the keys' dimension, but is no sequence of its own: then their source tells. So it
  // does where another argument, of positions, is as long as both of two texts.
  const AttentionArm& arm = attention.arms[0];
  attention.self_attention =
      have_same_source(arm, graph, origins) || (is_same && !come_from_other_texts(arm, graph, origins));
}

bool keys_are_stacked(const jit::Value* key, const jit::Value* value, size_t dim, const MethodGraph& graph,
                      const TokenFlow& flow) {
  const auto& axes = flow.of(value).axes;
  if (!axes || dim >= axes->size()) return false;
  const Axis& keys = (*axes)[dim];
  std::vector<const jit::Value*> open = {key};
  std::set<const jit::Value*> seen;
  while (!open.empty()) {
    const jit::Value* value = open.back();
    open.pop_back();
    const jit::Node* node = value->node();
    if (!seen.insert(value).second || node->inputs().empty()) continue;
    if (node->kind() == jit::aten::stack) {
      const auto& stacked = flow.of(node->output()).axes;
      const auto dim = graph.constant_int(node->input(1));
      if (!stacked || !dim) continue;
      const auto rank = static_cast<int64_t>(stacked->size());
      const auto at = static_cast<size_t>(*dim < 0 ? *dim + rank : *dim);
      if (at >= stacked->size() || (*stacked)[at] != keys || keys.empty()) continue;
      // Outputs of layers have tokens of their own; those of time steps have none.
      size_t named = 0;
      for (size_t i = 0; i < stacked->size(); ++i) {
        for (const Factor& factor : (*stacked)[i]) {
          if (i != at && !factor.is_constant() && flow.symbols()[factor.symbol].kind != AxisSymbol::Kind::kFresh) {
            ++named;
          }
        }
      }
      if (named > 1) return true;
      continue;
    }
    switch (op_kind(*node)) {
      case OpKind::kCopy:
      case OpKind::kReshape:
      case OpKind::kMoveAxis:
      case OpKind::kSlice:
      case OpKind::kRepeat:
      case OpKind::kMixOther:
        open.push_back(node->input(0));
        break;
      case OpKind::kElementwise:
      case OpKind::kMultiply:
      case OpKind::kContract:
        for (const jit::Value* input : node->inputs()) {
          if (is_tensor(input)) open.push_back(input);
        }
        break;
      default:
        break;
    }
  }
  return false;
}

}  // namespace moetap::hooks
