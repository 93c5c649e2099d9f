#include "plugin/verify/twin_attention.h"

#include <ATen/ATen.h>

#include "analysis/attention/attention_paths.h"
#include "plugin/capture/attention_report.h"

namespace moetap::plugin {
namespace {

at::Tensor numbers_of_elements(const at::Tensor& tensor) {
  return at::arange(tensor.numel(), at::TensorOptions().dtype(at::kLong).device(tensor.device()))
      .reshape(tensor.sizes());
}

}  // namespace

TwinAttention::TwinAttention(const hooks::ProbedAttention& attention, const TwinRun& run)
    : attention_(attention), run_(run) {
  TORCH_CHECK(attention.scale && attention.causal, "scale or causal is only known in a run");
  query_ = seen(attention.query);
  key_ = seen(attention.key);
  probabilities_ = seen(attention.probabilities);
  ReportedAttention reported;
  reported.query = query_;
  reported.key = key_;
  reported.probabilities = probabilities_;
  if (attention.mask) reported.mask = run.first(*attention.mask);
  reported.scale = *attention.scale;
  reported.causal = *attention.causal;
  reported.num_heads = attention.num_heads;
  reported.layout = attention.layout;
  call_ = to_canonical(reported);
}

at::Tensor TwinAttention::seen(const std::optional<hooks::ProbedValue>& value) const {
  return value ? run_.first(value->reported) : at::Tensor();
}

bool TwinAttention::is_low() const {
  return (is_given() ? call_.probabilities : call_.query).element_size() < 4;
}

at::Tensor TwinAttention::probabilities() const {
  const at::Tensor& scored = is_given() ? call_.probabilities : call_.query;
  const auto ints = at::TensorOptions().dtype(at::kInt).device(scored.device());
  analysis::AttentionTokens tokens;
  tokens.query_position = at::zeros({scored.size(0), scored.size(2)}, ints);
  tokens.key_position = at::zeros({scored.size(0), is_given() ? scored.size(3) : call_.key.size(2)}, ints);
  return analysis::attention_probabilities(call_, tokens);
}

at::Tensor TwinAttention::canonical(const at::Tensor& query, const at::Tensor& key, bool is_key) const {
  ReportedAttention reported;
  reported.query = query;
  reported.key = key;
  reported.num_heads = attention_.num_heads;
  reported.layout = attention_.layout;
  const analysis::AttentionCall call = to_canonical(reported);
  return is_key ? call.key : call.query;
}

at::Tensor TwinAttention::as_query(const at::Tensor& tensor) const {
  return canonical(tensor, tensor, /*is_key=*/false);
}

at::Tensor TwinAttention::as_key(const at::Tensor& tensor) const {
  return canonical(tensor, tensor, /*is_key=*/true);
}

at::Tensor TwinAttention::places_of_probabilities() const {
  ReportedAttention reported;
  reported.probabilities = numbers_of_elements(probabilities_);
  reported.num_heads = attention_.num_heads;
  reported.layout = attention_.layout;
  return to_canonical(reported).probabilities;
}

at::Tensor TwinAttention::places_of_query() const {
  return as_query(numbers_of_elements(query_));
}

at::Tensor TwinAttention::places_of_key() const {
  return as_key(numbers_of_elements(key_));
}

Overrides TwinAttention::with(const std::optional<hooks::ProbedValue>& value, const at::Tensor& places,
                              const at::Tensor& elements) const {
  TORCH_CHECK(value && value->source && value->steps.empty(), "what is reported is computed for the report");
  const at::Tensor source = run_.first(*value->source);
  TORCH_CHECK(source.defined() && same_bits(source, run_.first(value->reported)),
              "what is reported is not what the model made first");
  at::Tensor changed = source.clone(at::MemoryFormat::Contiguous);
  changed.view({-1}).index_put_({places.reshape({-1})}, elements.reshape({-1}).to(changed.scalar_type()));
  return {{*value->source, changed}};
}

bool ran_in(const hooks::ProbedAttention& attention, const TwinRun& run) {
  const auto& any = attention.probabilities ? attention.probabilities : attention.query;
  return run.ran() && run.output && any && run.seen.contains(any->reported);
}

}  // namespace moetap::plugin
