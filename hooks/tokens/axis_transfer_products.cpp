// Operators that sum over a shared dimension, and those that make hidden states of others.

#include <algorithm>
#include <map>

#include "hooks/graph/op_traits.h"
#include "hooks/tokens/axis_transfer.h"

namespace moetap::hooks {
namespace jit = torch::jit;

// Attention sums over keys that are the rows themselves. Other sums, such as those that dispatch tokens, say nothing of
// which dimension is the sequence.
void AxisTransfer::mark_attention(const Axis& rows, const Axis& keys) {
  const bool same =
      rows.size() == 1 && keys.size() == 1 && !rows[0].is_constant() && symbols_.same_class(rows[0], keys[0]);
  if (same) symbols_.mark_mixed(keys);
}

AxisFact AxisTransfer::matmul(const jit::Value* left, const jit::Value* right) {
  const MaybeAxes a = axes(left), b = axes(right);
  if (!a || a->empty()) return unknown_fact();
  if (!b) {
    // Whatever the other is, the rows of a hidden state stay.
    if (a->size() < 2 || !flow_.origins_.is_activation(left)) return unknown_fact();
    Axes result = *a;
    result.back() = fresh(result.size() - 1);
    return tensor(result);
  }
  if (b->empty()) return unknown_fact();
  if (a->size() >= 2) mark_attention((*a)[a->size() - 2], a->back());
  if (b->size() == 1) {
    Axes result = *a;
    result.pop_back();
    return tensor(result);
  }
  if (a->size() == 1) {
    Axes result = *b;
    result.erase(result.end() - 2);
    return tensor_fact(std::move(result));
  }
  Axes result = broadcast({a->begin(), a->end() - 2}, {b->begin(), b->end() - 2});
  result.push_back((*a)[a->size() - 2]);
  result.push_back(b->back());
  return tensor(result);
}

AxisFact AxisTransfer::einsum() {
  const auto equation = flow_.graph_.constant(node_->input(0));
  const AxisFact list = fact(node_->input(1));
  if (!equation || !equation->isString() || !list.elements) return unknown_fact();
  std::string text;
  for (const char letter : equation->toStringRef()) {
    if (letter != ' ') text += letter;
  }
  const size_t arrow = text.find("->");
  if (arrow == std::string::npos || text.find('.') != std::string::npos) return unknown_fact();
  const jit::Node* operands = node_->input(1)->node();
  const bool are_named = operands->kind() == jit::prim::ListConstruct;
  std::map<char, Axis> axes;
  std::map<char, int> in_operands;
  size_t at = 0, number = 0;
  for (const AxisFact& operand : *list.elements) {
    const size_t stop = std::min(text.find(',', at), arrow);
    const std::string letters = text.substr(at, stop - at);
    at = stop + 1;
    if (are_named) flow_.require_rank(operands->input(number), static_cast<int64_t>(letters.size()), false);
    ++number;
    for (size_t i = 0; i < letters.size(); ++i) {
      ++in_operands[letters[i]];
      if (!operand.axes || operand.axes->size() != letters.size()) continue;
      const auto [known, is_new] = axes.try_emplace(letters[i], (*operand.axes)[i]);
      if (!is_new) known->second = symbols_.meet(known->second, (*operand.axes)[i]);
    }
  }
  const std::string result = text.substr(arrow + 2);
  for (const auto& [letter, axis] : axes) {
    if (in_operands[letter] < 2 || result.find(letter) != std::string::npos) continue;
    for (const char row : result) {
      if (const auto rows = axes.find(row); rows != axes.end()) mark_attention(rows->second, axis);
    }
  }
  Axes made;
  for (const char letter : result) {
    const auto known = axes.find(letter);
    made.push_back(known == axes.end() ? fresh(made.size()) : known->second);
  }
  return tensor_fact(std::move(made));
}

AxisFact AxisTransfer::convolution(const std::string& name) {
  const jit::Value* stride = named("stride");
  int64_t spatial = name == "conv1d" ? 1 : name == "conv2d" ? 2 : name == "conv3d" ? 3 : 0;
  if (spatial == 0 && stride != nullptr && fact(stride).elements) {
    spatial = static_cast<int64_t>(list_elements(stride).size());
  }
  if (spatial == 0) return unknown_fact();
  flow_.require_rank(node_->input(0), spatial + 2, false);
  const MaybeAxes source = input_axes(0);
  const auto rank = static_cast<size_t>(spatial) + 2;
  if (!source || source->size() != rank) return unknown_fact();
  const MaybeAxes weight = input_axes(1);
  Axes axes = {source->front()};
  const bool transposed = flag("transposed") || name.find("transpose") != std::string::npos;
  axes.push_back(weight && !transposed && !weight->empty() ? weight->front() : fresh(1));
  const auto ints = [&](const char* list) {
    const jit::Value* value = named(list);
    return value == nullptr ? std::nullopt : flow_.graph_.constant_ints(value);
  };
  const auto strides = ints("stride"), paddings = ints("padding"), dilations = ints("dilation");
  const auto of_dim = [&](const std::optional<std::vector<std::optional<int64_t>>>& list, size_t place) {
    return !list || list->empty() ? std::nullopt : (*list)[std::min(place, list->size() - 1)];
  };
  for (size_t i = 2; i < rank; ++i) {
    // As many places as before, in their order: one for each place, or with its neighbours.
    const auto stride = of_dim(strides, i - 2), padding = of_dim(paddings, i - 2), dilation = of_dim(dilations, i - 2);
    const auto kernel = weight && weight->size() == rank ? constant_size((*weight)[i]) : std::nullopt;
    const bool same =
        !transposed && stride == 1 && padding && dilation && kernel && 2 * *padding == *dilation * (*kernel - 1);
    axes.push_back(same ? (*source)[i] : fresh(i));
  }
  return tensor(axes);
}

// Scaled dot product attention: rows are those of the queries; a mask runs along rows and keys.
AxisFact AxisTransfer::attention() {
  const MaybeAxes query = axes(named("query")), key = axes(named("key")), value = axes(named("value"));
  if (!query || query->size() < 2) return unknown_fact();
  if (key && key->size() >= 2) {
    mark_attention((*query)[query->size() - 2], (*key)[key->size() - 2]);
    const jit::Value* mask = named("attn_mask");
    if (const MaybeAxes masked = mask == nullptr ? std::nullopt : axes(mask)) {
      Axes scores = *query;
      scores.back() = (*key)[key->size() - 2];
      broadcast(scores, *masked);
    }
  }
  Axes result = *query;
  if (value && !value->empty()) result.back() = value->back();
  return tensor(result);
}

std::optional<AxisTransfer::Results> AxisTransfer::products(const std::string& name) {
  if (name == "linear" || name == "mkldnn_linear" || name == "linear_dynamic" || name == "linear_relu" ||
      name == "linear_dynamic_fp16") {
    const MaybeAxes source = input_axes(0), weight = input_axes(1);
    if (!source || source->empty()) return Results{unknown_fact()};
    Axes axes = *source;
    axes.back() = weight && weight->size() == 2 ? weight->front() : fresh(axes.size() - 1);
    return Results{tensor(axes)};
  }
  if (name == "bmm") {
    for (const jit::Value* operand : node_->inputs()) flow_.require_rank(operand, 3, /*at_least=*/false);
  }
  if (name == "matmul" || name == "mm" || name == "bmm") return Results{matmul(node_->input(0), node_->input(1))};
  if (name == "addmm" || name == "baddbmm") {
    const AxisFact product = matmul(node_->input(1), node_->input(2));
    const MaybeAxes added = input_axes(0);
    if (product.axes && added && added->size() <= product.axes->size()) broadcast(*product.axes, *added);
    return Results{product};
  }
  if (name == "einsum") return Results{einsum()};
  if (name.rfind("conv", 0) == 0 || name == "_convolution") return Results{convolution(name)};
  if (name == "scaled_dot_product_attention") return Results{attention()};
  if (name == "_native_multi_head_attention") {
    const MaybeAxes source = input_axes(0);
    if (source && source->size() == 3) symbols_.mark_mixed((*source)[1]);
    return Results{source ? tensor(source) : unknown_fact()};
  }
  if (name == "_transformer_encoder_layer_fwd") return Results{fact(node_->input(0))};
  if (name == "lstm" || name == "gru" || name == "rnn_tanh" || name == "rnn_relu") {
    const MaybeAxes source = input_axes(0);
    if (!source || source->size() != 3) return Results{unknown_fact()};
    symbols_.mark_mixed((*source)[flag("batch_first") ? 1 : 0]);
    Axes axes = *source;
    axes.back() = fresh(2);
    return Results{tensor(axes)};
  }
  if (name == "embedding") {
    const jit::Value* ids = node_->input(1);
    const MaybeAxes weight = input_axes(0), source = axes(ids);
    // Of some of the ids, perhaps.
    const bool some =
        op_kind(*ids->node()) == OpKind::kIndex && flow_.origins_.of(ids->node()->input(0)) != Origin::kParameter;
    const int64_t argument = flow_.argument_behind(some ? ids->node()->input(0) : ids);
    if (argument >= 0) flow_.look_up(argument);
    if (!source) return Results{unknown_fact()};
    Axes result = *source;
    result.push_back(weight && weight->size() == 2 ? weight->back() : fresh(result.size()));
    return Results{tensor_fact(std::move(result), fact(ids).rank_of)};
  }
  return std::nullopt;
}

}  // namespace moetap::hooks
