#include "plugin/capture/attention_report.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace moetap::plugin {
namespace {

// The order of the canonical dimensions; b before m, h before g and r: only one of them is there.
constexpr std::string_view kLetters = "bmhgrqk";

/// Moves the dimensions of `layout` into the order of kLetters.
at::Tensor in_order_of_letters(const at::Tensor& tensor, std::string_view layout) {
  int64_t order[kLetters.size()] = {};
  size_t count = 0;
  for (const char letter : kLetters) {
    const size_t place = layout.find(letter);
    if (place != std::string_view::npos) order[count++] = static_cast<int64_t>(place);
  }
  TORCH_CHECK(count == layout.size(), "attention: the layout must be of the letters ", kLetters, ", each once, got \"",
              layout, "\"");
  if (std::is_sorted(order, order + count)) return tensor;
  return tensor.permute({order, count});
}

/// Brings a tensor with the dimensions of `layout` to [B, H, Q, K]. `num_heads`: see ReportedAttention.
at::Tensor to_sequences_and_heads(const at::Tensor& tensor, std::string_view layout, int64_t num_heads,
                                  const char* name) {
  if (!tensor.defined()) return tensor;
  TORCH_CHECK(tensor.dim() == static_cast<int64_t>(layout.size()), "attention: ", name, " must have the dimensions \"",
              layout, "\", got ", tensor.sizes());
  at::Tensor result = in_order_of_letters(tensor, layout);
  const auto has = [&](char letter) { return layout.find(letter) != std::string_view::npos; };
  if (has('m')) {
    TORCH_CHECK(num_heads > 0 && result.size(0) % num_heads == 0, "attention: the batch and heads of ", name,
                " must be a multiple of ", num_heads, " heads, got ", tensor.sizes());
    return result.unflatten(0, {result.size(0) / num_heads, num_heads});
  }
  if (!has('b')) result = result.unsqueeze(0);
  if (has('g')) return result.flatten(1, 2);
  return has('h') ? result : result.unsqueeze(1);
}

/// The mask of a fused operator, which broadcasts to the dimensions of its scores: those of the query, but for the
/// last, which are keys.
at::Tensor mask_of_heads(const at::Tensor& mask, const ReportedAttention& reported) {
  const std::string_view layout = reported.layout;
  if (!mask.defined()) return mask;
  TORCH_CHECK(mask.dim() <= reported.query.dim(), "attention: the mask must broadcast to the dimensions \"", layout,
              "\", got ", mask.sizes());
  at::Tensor whole = mask;
  while (whole.dim() < reported.query.dim()) whole = whole.unsqueeze(0);
  const size_t merged = layout.find('m');
  if (merged != std::string_view::npos && whole.size(static_cast<int64_t>(merged)) == 1) {
    return in_order_of_letters(whole, layout).unsqueeze(0);  // one for all sequences and heads
  }
  if (layout.find('g') != std::string_view::npos) {
    std::vector<int64_t> sizes(layout.size(), -1);
    for (const char letter : {'g', 'r'}) {
      const size_t place = layout.find(letter);
      if (place != std::string_view::npos) sizes[place] = reported.query.size(static_cast<int64_t>(place));
    }
    whole = whole.expand(sizes);  // heads of one group may share a mask
  }
  return to_sequences_and_heads(whole, layout, reported.num_heads, "the mask");
}

}  // namespace

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
  call.mask = mask_of_heads(reported.mask, reported);
  // Kernels that pad it, or give another type, are not read.
  const at::Tensor& log_sums = reported.log_sum_exp;
  if (log_sums.defined() && log_sums.scalar_type() == at::kFloat &&
      log_sums.sizes() == call.query.sizes().slice(0, 3)) {
    call.log_sum_exp = log_sums;
  }
  call.causal = reported.causal;
  call.scale = reported.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, call.query.size(3)))));
  return call;
}

}  // namespace moetap::plugin
