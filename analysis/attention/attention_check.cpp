#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "analysis/attention/attention_paths.h"

namespace moetap::analysis {
namespace {

void check_floating(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(at::isFloatingType(tensor.scalar_type()), "attention call: ", name, " must be floating point, got ",
              tensor.scalar_type());
}

void check_device(const char* name, const at::Tensor& tensor, at::Device device) {
  TORCH_CHECK(tensor.device() == device, "attention call: ", name, " must be on the device of the call, ", device,
              ", got ", tensor.device());
}

void check_sizes(const char* name, const at::Tensor& tensor, at::IntArrayRef sizes, const char* shape) {
  TORCH_CHECK(tensor.sizes() == sizes, "attention call: ", name, " must be ", shape, " = ", sizes, ", got ",
              tensor.sizes());
}

void check_plane(const char* name, const at::Tensor& tensor, at::IntArrayRef sizes, const char* shape,
                 at::ScalarType type, at::Device device) {
  if (!tensor.defined()) return;
  check_sizes(name, tensor, sizes, shape);
  TORCH_CHECK(tensor.scalar_type() == type, "attention call: ", name, " must be ", type, ", got ",
              tensor.scalar_type());
  check_device(name, tensor, device);
}

AttentionShape shape_of_probabilities(const AttentionCall& call) {
  const at::Tensor& p = call.probabilities;
  TORCH_CHECK(!call.query.defined() && !call.key.defined() && !call.mask.defined() && !call.log_sum_exp.defined(),
              "attention call: query, key, mask and log_sum_exp must be undefined beside probabilities");
  TORCH_CHECK(p.dim() == 4, "attention call: probabilities must be [B, H, Sq, Sk], got ", p.sizes());
  check_floating("probabilities", p);
  if (call.scores.defined()) {
    check_sizes("scores", call.scores, p.sizes(), "[B, H, Sq, Sk]");
    check_floating("scores", call.scores);
    check_device("scores", call.scores, p.device());
  }
  return {p.size(0), p.size(1), p.size(1), p.size(2), p.size(3)};
}

AttentionShape shape_of_product(const AttentionCall& call) {
  TORCH_CHECK(call.query.defined() && call.key.defined(),
              "attention call: probabilities, or query and key, must be defined");
  TORCH_CHECK(!call.scores.defined(), "attention call: scores must be undefined beside query and key");
  const at::Tensor &q = call.query, &k = call.key;
  TORCH_CHECK(q.dim() == 4, "attention call: query must be [B, H, Sq, D], got ", q.sizes());
  TORCH_CHECK(k.dim() == 4 && k.size(0) == q.size(0) && k.size(3) == q.size(3),
              "attention call: key must be [B, Hk, Sk, D] for a query of ", q.sizes(), ", got ", k.sizes());
  TORCH_CHECK(k.size(1) > 0 ? q.size(1) % k.size(1) == 0 : q.size(1) == 0,
              "attention call: the heads of key must divide those of query, ", q.size(1), ", got ", k.size(1));
  check_floating("query", q);
  check_floating("key", k);
  check_device("key", k, q.device());
  const AttentionShape shape{q.size(0), q.size(1), k.size(1), q.size(2), k.size(2)};
  if (call.mask.defined()) {
    const at::Tensor& mask = call.mask;
    TORCH_CHECK(mask.scalar_type() == at::kBool || at::isFloatingType(mask.scalar_type()),
                "attention call: mask must be bool or floating point, got ", mask.scalar_type());
    const int64_t sizes[4] = {shape.num_sequences, shape.num_heads, shape.num_queries, shape.num_keys};
    bool fits = mask.dim() <= 4;
    for (int64_t i = 0; fits && i < mask.dim(); ++i) {
      const int64_t size = mask.size(mask.dim() - 1 - i);
      fits = size == 1 || size == sizes[3 - i];
    }
    TORCH_CHECK(fits, "attention call: mask must broadcast to [B, H, Sq, Sk] = ", at::IntArrayRef(sizes), ", got ",
                mask.sizes());
    check_device("mask", mask, q.device());
  }
  if (call.log_sum_exp.defined()) {
    check_plane("log_sum_exp", call.log_sum_exp, {shape.num_sequences, shape.num_heads, shape.num_queries},
                "[B, H, Sq]", at::kFloat, q.device());
  }
  return shape;
}

}  // namespace

at::Tensor count_improbable_rows(const AttentionCall& call, const AttentionTokens& tokens) {
  check_attention(call, tokens);
  constexpr double kSlack = 0.02;
  const at::Tensor& p = call.probabilities;
  const at::Tensor is_row = tokens.query_position.ge(0).unsqueeze(1);  // [B, 1, Sq]
  if (p.size(3) == 0) return at::zeros({}, p.options().dtype(at::kLong));
  const at::Tensor improbable =
      p.amin(3).lt(-kSlack).logical_or_(p.sum(3, /*keepdim=*/false, at::kFloat).gt(1 + kSlack));
  return improbable.logical_and_(is_row).any(1).sum();
}

AttentionShape check_attention(const AttentionCall& call, const AttentionTokens& tokens) {
  const AttentionShape shape = call.probabilities.defined() ? shape_of_probabilities(call) : shape_of_product(call);
  const at::Device device = (call.probabilities.defined() ? call.probabilities : call.query).device();
  TORCH_CHECK(shape.num_heads > 0, "attention call: there must be a head");
  TORCH_CHECK(tokens.num_regions > 0 && tokens.num_regions <= kMaxAttentionRegions,
              "attention call: num_regions must be in [1, ", kMaxAttentionRegions, "], got ", tokens.num_regions);
  TORCH_CHECK(tokens.query_position.defined() && tokens.key_position.defined(),
              "attention call: query_position and key_position must be defined");
  const int64_t queries[2] = {shape.num_sequences, shape.num_queries}, keys[2] = {shape.num_sequences, shape.num_keys};
  check_plane("query_position", tokens.query_position, queries, "[B, Sq]", at::kInt, device);
  check_plane("key_position", tokens.key_position, keys, "[B, Sk]", at::kInt, device);
  check_plane("query_region", tokens.query_region, queries, "[B, Sq]", at::kByte, device);
  check_plane("key_region", tokens.key_region, keys, "[B, Sk]", at::kByte, device);
  check_plane("sampled", tokens.sampled, queries, "[B, Sq]", at::kBool, device);
  return shape;
}

}  // namespace moetap::analysis
