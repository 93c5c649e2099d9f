#include "plugin/capture/attention_report.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace moetap::plugin {
namespace {

constexpr std::string_view kLetters = "bmhgrqk";

/// Brings a tensor with the dimensions of `layout` to [B, H, Q, K]. `num_heads`: see ReportedAttention.
at::Tensor to_sequences_and_heads(const at::Tensor& tensor, std::string_view layout, int64_t num_heads,
                                  const char* name) {
  if (!tensor.defined()) return tensor;
  TORCH_CHECK(tensor.dim() == static_cast<int64_t>(layout.size()), "attention: ", name, " must have the dimensions \"",
              layout, "\", got ", tensor.sizes());
  at::Tensor result = tensor;
  std::string dims(layout);
  // In the order of kLetters; b before m, h before g and r, since only one of them is there.
  std::vector<int64_t> order;
  for (const char letter : kLetters) {
    const size_t place = dims.find(letter);
    if (place != std::string::npos) order.push_back(static_cast<int64_t>(place));
  }
  TORCH_CHECK(order.size() == dims.size(), "attention: the layout must be of the letters ", kLetters, ", got \"",
              layout, "\"");
  result = result.permute(order);
  const bool has_batch = dims.find('b') != std::string::npos;
  if (dims.find('m') != std::string::npos) {
    TORCH_CHECK(num_heads > 0 && result.size(0) % num_heads == 0, "attention: the first dimension of ", name,
                " must be a multiple of ", num_heads, " heads, got ", tensor.sizes());
    return result.unflatten(0, {result.size(0) / num_heads, num_heads});
  }
  if (!has_batch) result = result.unsqueeze(0);
  if (dims.find('g') != std::string::npos) return result.flatten(1, 2);
  return dims.find('h') == std::string::npos ? result.unsqueeze(1) : result;
}

/// The mask of a fused operator, which broadcasts to the dimensions of its scores.
at::Tensor mask_of_heads(const at::Tensor& mask, const ReportedAttention& reported, int64_t num_sequences) {
  if (!mask.defined() || mask.dim() < 3) return mask;
  const bool is_merged = reported.layout.find('m') != std::string_view::npos;
  if (!is_merged || mask.dim() > 3) return mask;
  if (mask.size(0) == 1) return mask;
  TORCH_CHECK(mask.size(0) == num_sequences * reported.num_heads, "attention: the mask must have ",
              num_sequences * reported.num_heads, " sequences and heads, got ", mask.sizes());
  return mask.unflatten(0, {num_sequences, reported.num_heads});
}

}  // namespace

bool is_sequence_first(std::string_view layout) {
  const size_t batch = std::min(layout.find('b'), layout.find('m'));
  return batch != std::string_view::npos && layout.find('q') < batch;
}

analysis::AttentionCall to_canonical(const ReportedAttention& reported) {
  analysis::AttentionCall call;
  const auto canonical = [&](const at::Tensor& tensor, const char* name) {
    return to_sequences_and_heads(tensor, reported.layout, reported.num_heads, name);
  };
  if (reported.probabilities.defined()) {
    call.probabilities = canonical(reported.probabilities, "probabilities");
    call.scores = canonical(reported.scores, "scores");
    return call;
  }
  TORCH_CHECK(reported.query.defined() && reported.key.defined(),
              "attention: either probabilities or query and key must be given");
  call.query = canonical(reported.query, "query");
  call.key = canonical(reported.key, "key");
  TORCH_CHECK(call.query.size(3) == call.key.size(3) && call.query.size(0) == call.key.size(0),
              "attention: query and key must have the same sequences and features, got ", call.query.sizes(), " and ",
              call.key.sizes());
  TORCH_CHECK(call.key.size(1) > 0 && call.query.size(1) % call.key.size(1) == 0,
              "attention: the heads of the query must be a multiple of those of the key, got ", call.query.size(1),
              " and ", call.key.size(1));
  call.mask = mask_of_heads(reported.mask, reported, call.query.size(0));
  call.log_sum_exp = reported.log_sum_exp;
  call.causal = reported.causal;
  call.scale = reported.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, call.query.size(3)))));
  return call;
}

}  // namespace moetap::plugin
