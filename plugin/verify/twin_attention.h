#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "analysis/attention/attention_call.h"
#include "hooks/probe.h"
#include "plugin/verify/twin_run.h"

namespace moetap::plugin {

/// A hook's first call in a forward of the probed twin, read as the capture reads it. Throws c10::Error where the
/// capture would refuse the report, or where something of it is not known.
class TwinAttention {
 public:
  TwinAttention(const hooks::ProbedAttention& attention, const TwinRun& run);

  const analysis::AttentionCall& call() const { return call_; }
  bool is_given() const { return call_.probabilities.defined(); }
  /// Half precision.
  bool is_low() const;
  /// float64 [B, H, Sq, Sk].
  at::Tensor probabilities() const;

  /// Another tensor of the model, laid out as query, key or probabilities are reported, in the canonical layout.
  at::Tensor as_query(const at::Tensor& tensor) const;
  at::Tensor as_key(const at::Tensor& tensor) const;

  /// The value of the model behind what is reported, with the elements at `places` replaced. `places` are those of
  /// `places_of`. Throws c10::Error where the value is computed for the report.
  Overrides with(const std::optional<hooks::ProbedValue>& value, const at::Tensor& places,
                 const at::Tensor& elements) const;
  /// The number of each element, in the canonical layout. int64.
  at::Tensor places_of_probabilities() const;
  at::Tensor places_of_query() const;
  at::Tensor places_of_key() const;

 private:
  at::Tensor seen(const std::optional<hooks::ProbedValue>& value) const;
  at::Tensor canonical(const at::Tensor& query, const at::Tensor& key, bool is_key) const;

  const hooks::ProbedAttention& attention_;
  const TwinRun& run_;
  at::Tensor query_, key_, probabilities_;  // as they are reported
  analysis::AttentionCall call_;
};

/// True if the hook ran in the forward.
bool ran_in(const hooks::ProbedAttention& attention, const TwinRun& run);

}  // namespace moetap::plugin
