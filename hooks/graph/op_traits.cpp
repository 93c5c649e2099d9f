#include "hooks/graph/op_traits.h"

#include <unordered_map>

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

const std::unordered_map<std::string_view, OpKind>& kinds() {
  static const auto* table = [] {
    auto* map = new std::unordered_map<std::string_view, OpKind>();
    auto add = [map](OpKind kind, std::initializer_list<std::string_view> names) {
      for (auto name : names) map->emplace(name, kind);
    };
    add(OpKind::kCopy, {"to",
                        "type_as",
                        "contiguous",
                        "detach",
                        "clone",
                        "alias",
                        "dropout",
                        "feature_dropout",
                        "alpha_dropout",
                        "float",
                        "half",
                        "bfloat16",
                        "double",
                        "long",
                        "int",
                        "cpu",
                        "cuda",
                        "_to_copy",
                        "lift_fresh",
                        "positive",
                        "requires_grad",
                        "unchecked_cast",
                        "_unwrap_optional",
                        "native_dropout",
                        "_cast_Float",
                        "real",
                        "data"});
    add(OpKind::kReshape, {"view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "unsqueeze", "squeeze",
                           "_unsafe_view", "_reshape_alias", "ravel", "atleast_1d", "atleast_2d"});
    add(OpKind::kMoveAxis, {"transpose", "permute", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T", "mT",
                            "adjoint", "matrix_H", "flip", "roll", "fliplr", "flipud"});
    add(OpKind::kSlice, {"slice", "narrow"});
    add(OpKind::kSelect, {"select"});
    add(OpKind::kSplit,
        {"chunk", "split", "split_with_sizes", "unbind", "tensor_split", "hsplit", "unsafe_chunk", "unsafe_split"});
    add(OpKind::kRepeat,
        {"expand", "expand_as", "repeat", "repeat_interleave", "tile", "broadcast_to", "broadcast_tensors"});
    add(OpKind::kElementwise,
        {"add",       "sub",       "div",          "rsub",        "neg",        "exp",      "exp2",    "log",
         "log1p",     "sqrt",      "rsqrt",        "pow",         "abs",        "tanh",     "clamp",   "clamp_min",
         "clamp_max", "clip",      "square",       "reciprocal",  "nan_to_num", "maximum",  "minimum", "true_divide",
         "divide",    "subtract",  "floor_divide", "remainder",   "fmod",       "expm1",    "relu6",   "hardtanh",
         "floor",     "ceil",      "round",        "float_power", "logaddexp",  "copysign", "fill",    "normal",
         "erf",       "floor_div", "addcdiv",      "lerp",        "threshold"});
    add(OpKind::kMultiply, {"mul", "multiply", "addcmul"});
    add(OpKind::kScoring,
        {"softmax", "_softmax", "special_softmax", "log_softmax", "_log_softmax", "special_log_softmax", "sigmoid",
         "special_expit", "log_sigmoid", "softplus", "relu", "hardsigmoid", "gumbel_softmax", "silu", "gelu", "elu"});
    add(OpKind::kReduce,
        {"sum", "mean", "amax", "amin", "norm", "linalg_vector_norm", "linalg_norm", "logsumexp", "prod", "std", "var",
         "any", "all", "nansum", "count_nonzero", "bincount", "histc", "special_logsumexp"});
    add(OpKind::kCumulate, {"cumsum", "cumprod", "logcumsumexp"});
    add(OpKind::kPick, {"topk", "argmax", "max", "min", "argmin", "sort", "argsort", "msort", "kthvalue"});
    add(OpKind::kContract, {"linear",
                            "matmul",
                            "mm",
                            "bmm",
                            "addmm",
                            "baddbmm",
                            "addbmm",
                            "einsum",
                            "conv1d",
                            "conv2d",
                            "conv3d",
                            "_convolution",
                            "convolution",
                            "tensordot",
                            "mv",
                            "dot",
                            "inner",
                            "cdist",
                            "linear_dynamic",
                            "linear_dynamic_fp16",
                            "mkldnn_linear",
                            "_grouped_mm",
                            "bilinear",
                            "chain_matmul",
                            "linear_relu",
                            "addmv"});
    add(OpKind::kMixOther,
        {"layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "scaled_dot_product_attention",
         "_native_multi_head_attention", "embedding_bag", "lstm", "gru", "native_layer_norm", "_fft_r2c"});
    add(OpKind::kGather, {"gather", "take_along_dim"});
    add(OpKind::kIndex,
        {"index", "index_select", "embedding", "take", "masked_select", "_unsafe_index", "__getitem__"});
    add(OpKind::kScatter, {"scatter", "scatter_add", "scatter_reduce"});
    add(OpKind::kIndexWrite,
        {"index_put", "index_add", "index_copy", "index_fill", "_index_put_impl", "masked_scatter", "copy"});
    add(OpKind::kOneHot, {"one_hot"});
    add(OpKind::kCompare, {"eq", "ne", "gt", "lt", "ge", "le", "greater", "less", "greater_equal", "less_equal",
                           "not_equal", "isin", "isinf", "isfinite", "isnan"});
    add(OpKind::kLogical,
        {"__and__", "__or__", "__xor__", "__iand__", "__ior__", "__ixor__", "logical_and", "logical_or", "logical_not",
         "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor", "bool"});
    add(OpKind::kNonzero, {"nonzero", "nonzero_numpy", "argwhere"});
    add(OpKind::kWhere, {"where"});
    add(OpKind::kMaskedFill, {"masked_fill"});
    add(OpKind::kConcatenate,
        {"cat", "stack", "concat", "concatenate", "hstack", "vstack", "column_stack", "pad", "constant_pad_nd"});
    add(OpKind::kSample, {"multinomial", "bernoulli"});
    add(OpKind::kFresh,
        {"zeros_like",   "ones_like",     "full_like", "empty_like", "rand_like",  "randn_like", "randint_like",
         "new_zeros",    "new_ones",      "new_full",  "new_empty",  "new_tensor", "zeros",      "ones",
         "full",         "empty",         "arange",    "rand",       "randn",      "eye",        "tril_indices",
         "triu_indices", "scalar_tensor", "tensor",    "linspace"});
    return map;
  }();
  return *table;
}

bool is_tensor_namespace(const jit::Node& node) {
  const std::string space = node.kind().ns().toUnqualString();
  return space == "aten" || space == "prim" || space == "quantized" || space == "mkldnn" || space == "_quantized";
}

}  // namespace

bool is_tensor(const jit::Value* value) {
  return value->type()->isSubtypeOf(*c10::TensorType::get());
}

bool is_in_place(const jit::Node& node) {
  if (node.kind().ns() != c10::namespaces::aten) return false;
  const std::string_view name = node.kind().toUnqualString();
  return name.size() > 1 && name.back() == '_' && name[name.size() - 2] != '_';
}

bool turns_elements(const jit::Node& node) {
  if (node.kind().ns() != c10::namespaces::aten) return false;
  const std::string_view name = node.kind().toUnqualString();
  return name == "flip" || name == "roll" || name == "fliplr" || name == "flipud";
}

bool may_be_view(const jit::Node& node) {
  switch (op_kind(node)) {
    case OpKind::kCopy:
    case OpKind::kReshape:
    case OpKind::kSlice:
    case OpKind::kSelect:
    case OpKind::kRepeat:
      return !is_in_place(node);
    case OpKind::kMoveAxis:
      return !is_in_place(node) && !turns_elements(node);
    default:
      return false;
  }
}

const jit::Value* index_of(const jit::Node& node) {
  const jit::Value* index = node.inputs().back();
  if (base_name(node) == "index_select" || base_name(node) == "gather") index = node.input(2);
  if (base_name(node) == "embedding") index = node.input(1);
  const bool listed = index->node()->kind() == jit::prim::ListConstruct && !index->node()->inputs().empty();
  return listed ? index->node()->inputs().back() : index;
}

bool is_made_by_comparison(const jit::Value* value) {
  for (int steps = 0; steps < 8 && !value->node()->inputs().empty(); ++steps) {
    switch (op_kind(*value->node())) {
      case OpKind::kCompare:
      case OpKind::kLogical:
      case OpKind::kOneHot:
        return true;
      case OpKind::kCopy:
      case OpKind::kReshape:
      case OpKind::kRepeat:
        value = value->node()->input(0);
        break;
      default:
        return false;
    }
  }
  return false;
}

std::string base_name(const jit::Node& node) {
  std::string name = node.kind().toUnqualString();
  if (is_in_place(node)) name.pop_back();
  return name;
}

OpKind op_kind(const jit::Node& node) {
  if (!is_tensor_namespace(node)) return OpKind::kOther;
  const std::string name = base_name(node);
  auto found = kinds().find(name);
  if (found == kinds().end()) return OpKind::kOther;
  const OpKind kind = found->second;
  if (kind == OpKind::kWhere && node.inputs().size() == 1) return OpKind::kNonzero;
  // max and min of a tensor alone, or of two tensors, pick nothing: (self), (self, other) against (self, dim, keepdim).
  if (kind == OpKind::kPick && (name == "max" || name == "min") && node.outputs().size() == 1) {
    return node.inputs().size() == 1 ? OpKind::kReduce : OpKind::kElementwise;
  }
  return kind;
}

const jit::Value* without_copies(const jit::Value* value) {
  while (op_kind(*value->node()) == OpKind::kCopy && !value->node()->inputs().empty()) value = value->node()->input(0);
  return value;
}

jit::Value* without_copies(jit::Value* value) {
  return const_cast<jit::Value*>(without_copies(static_cast<const jit::Value*>(value)));
}

}  // namespace moetap::hooks
