#pragma once

#include <c10/core/ScalarType.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "analysis/routers/host_call.h"
#include "plugin/capture/router_report.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

/// How the calls of a model's hooks lie in memory where they can be held (Note [Held calls]): each tensor in one piece,
/// tokens one after the other, experts or slots last. That is learned from calls that `to_canonical` took as they lay:
/// later calls of the same form need no more than a look at their sizes. Thread-safe; `view` takes no lock.
class HeldForms {
 public:
  explicit HeldForms(const ModelDescription& model);

  /// The reported call where it lies, without rows. False: it has no known form, or is too large to be held.
  bool view(int64_t hook, const ReportedRouter& reported, analysis::HostRouterCall& call) const;

  /// Learns the form of a call on the CPU, if it can be held.
  void learn(int64_t hook, const ReportedRouter& reported, const CanonicalRouter& canonical);

  /// Hooks of the same number have the same TokenLayout.
  int64_t layout_number(int64_t hook) const { return layout_numbers_.at(static_cast<size_t>(hook)); }

 private:
  struct TensorForm {
    bool defined = false;
    c10::ScalarType dtype = c10::ScalarType::Float;
    int64_t rank = 0;

    bool fits(const at::Tensor& tensor) const;
    bool operator==(const TensorForm&) const = default;
  };
  struct Form {
    TensorForm logits, scores, selected, weights;  // scores: only those that are measured
    int64_t num_experts = 0, top_k = 0;
    bool sigmoid_scores = false, has_scores = false;  // the second: reported, whether they are measured or not

    bool operator==(const Form&) const = default;
  };
  static constexpr size_t kMaxForms = 4;  // of a hook
  using Forms = std::atomic<const Form*>[kMaxForms];

  static bool fits(const Form& form, const ReportedRouter& reported, analysis::HostRouterCall& call);

  std::vector<int64_t> layout_numbers_;  // by hook
  std::vector<bool> has_null_experts_;   // by hook
  std::unique_ptr<Forms[]> forms_;       // by hook; null: no more
  std::mutex mutex_;                     // guards what follows
  std::vector<std::unique_ptr<const Form>> all_forms_;
};

}  // namespace moetap::plugin
