#include "plugin/verify/twin_router.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace moetap::plugin {
namespace {

using Step = hooks::ReportStep;

at::Tensor first_of(const TwinRun& run, int64_t probe) {
  const auto seen = run.seen.find(probe);
  TORCH_CHECK(seen != run.seen.end(), "a value of the router was not made in this forward");
  return seen->second;
}

/// What the report does to a tensor of the source's shape.
at::Tensor as_reported(at::Tensor value, const std::vector<Step>& steps) {
  for (const Step& step : steps) {
    switch (step.kind) {
      case Step::Kind::kCopy:
        break;
      case Step::Kind::kMoveDim:
        value = value.movedim(step.from, step.to);
        break;
      case Step::Kind::kAddDim:
        value = value.unsqueeze(step.from);
        break;
      case Step::Kind::kSumDim:
        TORCH_CHECK(false, "they are sums of the model's values");
    }
  }
  return value;
}

/// Tensors laid out as the reported ones that hold the places in the sources, counted over all of them. Exact as
/// double.
template <typename Values>
std::vector<at::Tensor> places_of(const Values& values) {
  std::vector<at::Tensor> places;
  int64_t first = 0;
  for (const auto& value : values) {
    TORCH_CHECK(value.source.defined(), "they are computed for the report alone");
    const int64_t count = value.source.numel();
    const auto all = at::arange(first, first + count, value.source.options().dtype(at::kDouble));
    places.push_back(as_reported(all.reshape(value.source.sizes()), value.probed.steps));
    first += count;
  }
  return places;
}

template <typename Values>
std::vector<at::Tensor> reported_of(const Values& values) {
  std::vector<at::Tensor> tensors;
  for (const auto& value : values) tensors.push_back(value.reported);
  return tensors;
}

}  // namespace

TwinRouter::Value TwinRouter::value_of(const hooks::ProbedValue& probed, const TwinRun& run) {
  return {first_of(run, probed.reported), probed.source ? first_of(run, *probed.source) : at::Tensor(), probed};
}

TwinRouter::TwinRouter(const hooks::ProbedRouter& router, const TwinRun& run) : router_(router) {
  if (router.logits) logits_ = value_of(*router.logits, run);
  if (router.scores) scores_ = first_of(run, *router.scores);
  for (const auto& probed : router.selected) selected_.push_back(value_of(probed, run));
  for (const auto& probed : router.weights) weights_.push_back(value_of(probed, run));
  if (router.form == "kept" && !weights_.empty()) {
    kept_.push_back(weights_.back());
    weights_.pop_back();
  }
  canonical_ = to_canonical(reported(), router.hook);
}

void TwinRouter::check_sources() const {
  std::vector<Value> values = selected_;
  values.insert(values.end(), weights_.begin(), weights_.end());
  if (logits_) values.push_back(*logits_);
  for (const Value& value : values) {
    const auto& steps = value.probed.steps;
    const bool summed =
        std::any_of(steps.begin(), steps.end(), [](const Step& step) { return step.kind == Step::Kind::kSumDim; });
    if (!value.source.defined() || summed) continue;
    TORCH_CHECK(same_bits(as_reported(value.source, steps), value.reported),
                "the model makes the values more often than it reports them");
  }
}

ReportedRouter TwinRouter::reported() const {
  ReportedRouter report;
  if (logits_) report.logits = logits_->reported;
  report.scores = scores_;
  report.selected = reported_of(selected_);
  report.weights = reported_of(weights_);
  if (!kept_.empty()) report.weights.push_back(kept_[0].reported);
  report.expert_dim = router_.expert_dim;
  report.form = router_.form;
  return report;
}

Overrides TwinRouter::written(const std::vector<Value>& values, const at::Tensor& places,
                              const at::Tensor& canonical) const {
  std::vector<at::Tensor> flat;
  for (const Value& value : values) flat.push_back(value.source.reshape({-1}));
  const at::Tensor all = at::cat(flat);
  all.scatter_(0, places.to(at::kLong).reshape({-1}), canonical.to(all.scalar_type()).reshape({-1}));
  Overrides overrides;
  int64_t first = 0;
  for (const Value& value : values) {
    const int64_t count = value.source.numel();
    overrides[*value.probed.source] = all.narrow(0, first, count).reshape(value.source.sizes()).clone();
    first += count;
  }
  return overrides;
}

Overrides TwinRouter::with_logits(const at::Tensor& logits) const {
  TORCH_CHECK(logits_, "no logits are captured");
  ReportedRouter report = reported();
  const std::vector<Value> values = {*logits_};
  report.logits = places_of(values)[0];
  return written(values, to_canonical(report, router_.hook).call.logits, logits);
}

Overrides TwinRouter::with_selected(const at::Tensor& selected) const {
  TORCH_CHECK(router_.form == "slots" && has_own_ids(), "only slots can be written");
  return with_slots(selected);
}

std::optional<at::Tensor> TwinRouter::slots() const {
  if (!has_own_ids() || router_.form == "expert_choice") return std::nullopt;
  ReportedRouter report = reported();
  report.form = "slots";
  report.weights.clear();
  return to_canonical(report, router_.hook).call.selected;
}

Overrides TwinRouter::with_slots(const at::Tensor& ids) const {
  ReportedRouter report = reported();
  report.form = "slots";
  report.weights = places_of(selected_);  // these lie as the ids do
  return written(selected_, to_canonical(report, router_.hook).call.weights, ids);
}

Overrides TwinRouter::with_weights(const at::Tensor& weights) const {
  TORCH_CHECK(router_.form == "slots" && !weights_.empty(), "only slots can be written");
  ReportedRouter report = reported();
  report.weights = places_of(weights_);
  return written(weights_, to_canonical(report, router_.hook).call.weights, weights);
}

Overrides TwinRouter::with_weights_times(double factor) const {
  Overrides overrides;
  for (const Value& weights : weights_) {
    TORCH_CHECK(weights.source.defined(), "the weights are computed for the report alone");
    overrides[*weights.probed.source] = factor == 0 ? at::zeros_like(weights.source) : weights.source * factor;
  }
  return overrides;
}

Overrides TwinRouter::with_ids_kept() const {
  Overrides overrides;
  for (const Value& ids : selected_) {
    if (ids.source.defined()) overrides[*ids.probed.source] = ids.source;
  }
  return overrides;
}

std::optional<at::Tensor> TwinRouter::dense_weights() const {
  if ((router_.form != "dense" && router_.form != "variable") || weights_.size() != 1) return std::nullopt;
  if (!at::isFloatingType(weights_[0].reported.scalar_type())) return std::nullopt;
  return over_experts(weights_[0].reported);
}

Overrides TwinRouter::with_dense_weights(const at::Tensor& weights) const {
  return written(weights_, over_experts(places_of(weights_)[0]), weights);
}

at::Tensor TwinRouter::over_experts(const at::Tensor& tensor) const {
  ReportedRouter report = reported();
  report.scores = tensor;  // which are brought into the layout of the logits
  return to_canonical(report, router_.hook).call.scores;
}

at::Tensor TwinRouter::weights_as_numbers() const {
  std::vector<at::Tensor> flat;
  for (const Value& value : weights_) {
    flat.push_back((value.source.defined() ? value.source : value.reported).reshape({-1}).to(at::kDouble));
  }
  return flat.empty() ? at::Tensor() : at::cat(flat);
}

bool TwinRouter::has_own_ids() const {
  return !selected_.empty() &&
         std::all_of(selected_.begin(), selected_.end(), [](const Value& value) { return value.source.defined(); });
}

}  // namespace moetap::plugin
