#include "plugin/capture/held_forms.h"

#include <algorithm>

namespace moetap::plugin {
namespace {

constexpr int64_t kMaxHeldBytes = 32 << 10;  // of a call

bool is_last_dim(int64_t dim, int64_t rank) {
  return dim == -1 || dim == rank - 1;
}

/// Whether the canonical tensor is the reported one, flattened.
bool lies_as_reported(const at::Tensor& canonical, const at::Tensor& reported) {
  return canonical.const_data_ptr() == reported.const_data_ptr() && canonical.numel() == reported.numel() &&
         canonical.scalar_type() == reported.scalar_type() && canonical.is_contiguous() && reported.is_contiguous();
}

analysis::HostPlane plane_of(const at::Tensor& tensor, int64_t columns) {
  return {tensor.const_data_ptr(), tensor.scalar_type(), columns};
}

/// True if both have the same sizes but for the last one.
bool same_tokens(const at::Tensor& a, const at::Tensor& b) {
  return std::equal(a.sizes().begin(), a.sizes().end() - 1, b.sizes().begin(), b.sizes().end() - 1);
}

}  // namespace

HeldForms::HeldForms(const ModelDescription& model) : forms_(std::make_unique<Forms[]>(model.hooks.size())) {
  for (const hooks::HookPoint& hook : model.hooks) {
    has_null_experts_.push_back(hook.null_experts > 0);
    const auto same = std::find_if(model.hooks.begin(), model.hooks.end(),
                                   [&](const hooks::HookPoint& other) { return other.tokens == hook.tokens; });
    layout_numbers_.push_back(same - model.hooks.begin());
  }
}

bool HeldForms::TensorForm::fits(const at::Tensor& tensor) const {
  if (!tensor.defined() || !defined) return tensor.defined() == defined;
  return tensor.is_cpu() && tensor.layout() == at::kStrided && !tensor.is_neg() && !tensor.is_conj() &&
         tensor.scalar_type() == dtype && tensor.dim() == rank && tensor.is_contiguous();
}

bool HeldForms::fits(const Form& form, const ReportedRouter& reported, analysis::HostRouterCall& call) {
  const at::Tensor& logits = reported.logits;
  const at::Tensor& selected = reported.selected.front();
  const at::Tensor* weights = reported.weights.empty() ? nullptr : &reported.weights.front();
  const int64_t num_experts = form.num_experts;
  if (form.has_scores != reported.scores.defined()) return false;
  if (!form.logits.fits(logits) || !form.selected.fits(selected) || form.weights.defined != (weights != nullptr) ||
      (weights != nullptr && !form.weights.fits(*weights)) || logits.size(-1) != num_experts ||
      !is_last_dim(reported.expert_dim, logits.dim())) {
    return false;
  }
  const int64_t num_tokens = logits.numel() / num_experts;
  const bool slots_fit = selected.numel() == num_tokens * form.top_k &&
                         (selected.dim() != logits.dim() || same_tokens(selected, logits)) &&
                         (weights == nullptr || weights->sizes() == selected.sizes());
  if (!slots_fit) return false;
  if (form.scores.defined && (!form.scores.fits(reported.scores) || reported.scores.sizes() != logits.sizes())) {
    return false;
  }
  const int64_t bytes = num_tokens * (2 * num_experts + 2 * form.top_k) * static_cast<int64_t>(sizeof(float));
  if (num_tokens == 0 || bytes > kMaxHeldBytes) return false;
  call.num_tokens = num_tokens;
  call.num_experts = num_experts;
  call.top_k = form.top_k;
  call.sigmoid_scores = form.sigmoid_scores;
  call.logits = plane_of(logits, num_experts);
  if (form.scores.defined) call.scores = plane_of(reported.scores, num_experts);
  call.selected = plane_of(selected, form.top_k);
  if (weights != nullptr) call.weights = plane_of(*weights, form.top_k);
  return true;
}

bool HeldForms::view(int64_t hook, const ReportedRouter& reported, analysis::HostRouterCall& call) const {
  if (reported.form != "slots" || reported.selected.size() != 1 || reported.weights.size() > 1) return false;
  if (!reported.logits.defined() || reported.logits.dim() == 0) return false;
  for (const auto& form : forms_[static_cast<size_t>(hook)]) {
    const Form* known = form.load(std::memory_order_acquire);
    if (known == nullptr) return false;
    if (fits(*known, reported, call)) return true;
  }
  return false;
}

void HeldForms::learn(int64_t hook, const ReportedRouter& reported, const CanonicalRouter& canonical) {
  const analysis::RouterCall& call = canonical.call;
  const auto place = static_cast<size_t>(hook);
  if (reported.form != "slots" || reported.selected.size() != 1 || reported.weights.size() > 1 ||
      !reported.logits.defined() || has_null_experts_[place] || canonical.out_of_range.defined() ||
      call.probabilities.defined() || call.selected.size(1) == 0 || call.num_experts == 0) {
    return;
  }
  const at::Tensor& selected = reported.selected.front();
  const bool has_weights = !reported.weights.empty();
  const bool lies = call.logits.is_cpu() && lies_as_reported(call.logits, reported.logits) &&
                    lies_as_reported(call.selected, selected) &&
                    (!has_weights || lies_as_reported(call.weights, reported.weights.front())) &&
                    is_last_dim(reported.expert_dim, reported.logits.dim());
  const bool measures_scores = call.sigmoid_scores && call.scores.defined();
  if (!lies || (measures_scores && !lies_as_reported(call.scores, reported.scores))) return;
  const auto form_of = [](const at::Tensor& tensor) { return TensorForm{true, tensor.scalar_type(), tensor.dim()}; };
  Form form{
      form_of(reported.logits), {}, form_of(selected), {}, call.num_experts, call.selected.size(1), call.sigmoid_scores,
      reported.scores.defined()};
  if (measures_scores) form.scores = form_of(reported.scores);
  if (has_weights) form.weights = form_of(reported.weights.front());
  for (const TensorForm* real : {&form.logits, &form.scores, &form.weights}) {
    if (real->defined && !analysis::real_format(real->dtype)) return;
  }
  // What was learned must read this call as it is read now.
  analysis::HostRouterCall read;
  if (!fits(form, reported, read) || read.num_tokens != call.selected.size(0)) return;
  const std::lock_guard lock(mutex_);
  for (auto& known : forms_[place]) {
    const Form* of = known.load(std::memory_order_relaxed);
    if (of != nullptr && *of == form) return;
    if (of != nullptr) continue;
    all_forms_.push_back(std::make_unique<const Form>(form));
    known.store(all_forms_.back().get(), std::memory_order_release);
    return;
  }
}

}  // namespace moetap::plugin
