#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "analysis/attention/attention_rows.h"
#include "plugin/capture/forward_tokens.h"
#include "plugin/capture/graph_replays.h"
#include "plugin/capture/hook_checks.h"
#include "plugin/capture/pending_report.h"
#include "plugin/capture/router_pending.h"
#include "plugin/process/recycled_memory.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

// Note [The attention of a router]
// A router goes with the attention hook that ran last before it in its component and layer; where that saw other
// tokens, or there is none, with the last one before it in its component that saw the same tokens. In a loop, the
// attention's call has the router's number, or the largest below it. `PendingAttention::finish` is the only place that
// decides this; it comes behind the routers, whose ids and weights are then in the record.

/// What the experts of a router attend to, as it was added up on the device of both.
struct SumsOfExperts {
  int64_t router_hook = 0, router_call = 0;
  bool has_weights = false;  // the gate weights were known
  analysis::AttentionSums sums;
};

/// An attention call that was measured. Its tensors are on the call's device until the forward ends, then on the host.
struct MeasuredAttention {
  int64_t hook = 0, call = 0;
  std::shared_ptr<const TokenGroup> tokens;  // the queries, in the order of the lines
  analysis::AttentionRows rows;
  at::Tensor key_position;     // int32 [B, Sk]; undefined: the matrix is not kept
  at::Tensor improbable_rows;  // int64 []; undefined: the call is not checked
  int64_t num_key_heads = 0;
  // Note [Attention that is summed up on its device]. `sums` defined: of `rows`, the host gets `matrix` and what it
  // needs for values of each query.
  analysis::AttentionSums sums = {};
  std::vector<SumsOfExperts> by_expert = {};
  // Behind the call in a graph; null: no graph was being captured.
  std::shared_ptr<const c10::Event> captured = {};
  int64_t terms_of_row = 1;  // that a row adds to one sum at most, in a graph
};

/// Why the probabilities of a checked call are none, one line; empty: they may be some. Waits for the device.
std::string misfit_of(const MeasuredAttention& measured);

/// The attention calls of a forward. `finish` sums them up by sample and by the experts of the routers that go with
/// them.
class PendingAttention final : public PendingReport, public Recycled {
 public:
  /// How sums by expert of few tokens are recorded.
  enum class ByExpert { kRowsIfShorter, kSums };
  /// `checks`: of the model's hooks. `keep_values`: those of each query are recorded.
  PendingAttention(std::shared_ptr<const ModelDescription> model, std::shared_ptr<HookChecks> checks, bool keep_values,
                   ByExpert by_expert = ByExpert::kRowsIfShorter)
      : model_(std::move(model)), checks_(std::move(checks)), keep_values_(keep_values), by_expert_(by_expert) {}

  bool empty() const { return calls_.empty(); }
  /// In any order: forks report as they come.
  void add(MeasuredAttention attention);
  /// At the forward's end, once: sums up on their devices what is better summed up there. `routers`: all that reported;
  /// null: none did. Does not block.
  void add_on_devices(const PendingRouters* routers, int64_t num_samples, HostCopies& copies);
  /// The same for calls that a graph captures: see `add_in_graph`.
  bool add_in_graph(const std::vector<RouterOfForward>& routers, GraphReplays& replays);

  void visit_tensors(Visit visit) override;
  void finish(ForwardRecord& record) override;
  void recorded(const ForwardRecord& record) override { checks_->told(record.unverified); }
  std::unique_ptr<PendingReport> clone() const override { return std::make_unique<PendingAttention>(*this); }

 private:
  const hooks::HookPoint& hook_of(const MeasuredAttention& attention) const {
    return model_->hooks.at(static_cast<size_t>(attention.hook));
  }

  /// Leaves out calls whose probabilities are none, and all later ones of their hooks.
  void withhold(ForwardRecord& record);
  /// Adds what a device has added up by the experts of a router. False: no device has.
  bool take_by_expert(const RouterRecord& router, ForwardRecord& record);

  std::shared_ptr<const ModelDescription> model_;
  std::shared_ptr<HookChecks> checks_;
  bool keep_values_;
  ByExpert by_expert_;
  std::vector<MeasuredAttention, RecyclingAllocator<MeasuredAttention>> calls_;  // in order of hooks, then of calls
};

}  // namespace moetap::plugin
