#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "hooks/probe.h"
#include "plugin/capture/router_report.h"
#include "plugin/verify/twin_run.h"

namespace moetap::plugin {

/// A hook's first call in a forward of the probed twin, read as the capture reads it, and written back: the canonical
/// layout (one token a row) is mapped to the places in the model's own tensors. Throws c10::Error where the capture
/// would refuse the report.
class TwinRouter {
 public:
  TwinRouter(const hooks::ProbedRouter& router, const TwinRun& run);

  /// Throws c10::Error where a reported value is not the one that its source had first: a loop that reports later.
  void check_sources() const;

  const CanonicalRouter& canonical() const { return canonical_; }
  const analysis::RouterCall& call() const { return canonical_.call; }

  /// What overrides the captured values by these, which are laid out as in `call()`. They throw c10::Error where a
  /// value is computed for the report alone.
  Overrides with_logits(const at::Tensor& logits) const;
  Overrides with_selected(const at::Tensor& selected) const;
  Overrides with_weights(const at::Tensor& weights) const;
  /// The ids as the model has them, [T, slots], whatever the form makes of them; empty where there are none of the
  /// model's own.
  std::optional<at::Tensor> slots() const;
  Overrides with_slots(const at::Tensor& ids) const;
  /// All weights multiplied, in the model's own tensors.
  Overrides with_weights_times(double factor) const;
  /// The weights, or the ids, as they are, whatever the rest of the model says.
  Overrides with_weights_kept() const { return with_weights_times(1); }
  Overrides with_ids_kept() const;
  /// As `with_weights`, over all experts: [T, E]; only for the forms "dense" and "variable" with one tensor.
  Overrides with_dense_weights(const at::Tensor& weights) const;
  std::optional<at::Tensor> dense_weights() const;

  /// The numbers of the model's own weights, in one dimension; undefined without weights.
  at::Tensor weights_as_numbers() const;
  /// True if the model itself makes the ids, so that they can be replaced.
  bool has_own_ids() const;

 private:
  /// A reported tensor: what the operator got, and what the model made.
  struct Value {
    at::Tensor reported, source;  // source undefined: computed for the report
    hooks::ProbedValue probed;
  };

  static Value value_of(const hooks::ProbedValue& probed, const TwinRun& run);
  ReportedRouter reported() const;
  /// A tensor that is laid out as the dense weights: [T, E].
  at::Tensor over_experts(const at::Tensor& tensor) const;
  Overrides written(const std::vector<Value>& values, const at::Tensor& places, const at::Tensor& canonical) const;

  const hooks::ProbedRouter& router_;
  std::optional<Value> logits_;
  at::Tensor scores_;                             // undefined: none
  std::vector<Value> selected_, weights_, kept_;  // kept_: the mask of the form "kept"
  CanonicalRouter canonical_;
};

}  // namespace moetap::plugin
