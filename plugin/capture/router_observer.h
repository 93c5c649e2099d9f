#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "plugin/capture/forward_context.h"
#include "plugin/capture/held_calls.h"
#include "plugin/capture/held_forms.h"
#include "plugin/capture/hook_checks.h"
#include "plugin/capture/probed_tokens.h"
#include "plugin/capture/router_pending.h"
#include "plugin/capture/router_report.h"
#include "plugin/process/recycled_memory.h"

namespace moetap::plugin {

/// What a forward keeps of its router calls besides the sums.
struct RouterValues {
  bool per_token = false;  // ids, weights and margins of each token
  bool full = false;       // logits and scores of each token
  int64_t probe_tokens = 0;
  bool record_held = false;  // the sink takes held calls
  bool input = false;        // what enters the projection of each token
  bool by_expert = false;    // what experts attend to is summed up
};

/// What the observers of a model's forwards share. Thread-safe.
struct RouterState {
  explicit RouterState(const ModelDescription& model, int64_t check_every = 0)
      : probed(std::make_shared<ProbedTokens>(model.hooks.size())),
        checks(std::make_shared<HookChecks>(model.hooks.size(), check_every)),
        forms(model) {}

  const std::shared_ptr<ProbedTokens> probed;
  const std::shared_ptr<HookChecks> checks;
  HeldForms forms;
  HeldCallsPool held;
};

/// Measures the router calls of one forward, on the devices and current streams of their tensors; short ones on the CPU
/// are held (Note [Held calls]). Thread-safe: forks report on threads of their own. Waits for a device only while a
/// graph is being captured, or to allocate a new block. The caller switches gradients off.
class RouterObserver {
 public:
  /// `state`: the model's.
  RouterObserver(ForwardContext forward, const RouterValues& values, std::shared_ptr<RouterState> state);

  /// Throws c10::Error whose message says what does not fit. After `end`, and for a hook whose ids are withheld, it
  /// does nothing.
  void observe(int64_t hook, const ReportedRouter& reported);

  /// The calls that were measured, and what is withheld; null: none. A call that is still being measured is left out.
  std::unique_ptr<PendingRouters> end();
  /// The calls that a graph has captured, whose sums its replays add to, before `forget_tokens`; null: none. Called
  /// once, after `end`.
  std::unique_ptr<PendingRouters> end_replayed();

 private:
  /// Whether the call is held, so that nothing more is to be done for it.
  bool hold(int64_t hook, const ReportedRouter& reported);
  struct MeasuredAs {
    bool checked = false;   // the hook checks itself
    bool captured = false;  // into a graph
  };
  void measure_call(int64_t hook, const ReportedRouter& reported, MeasuredAs measured_as);
  /// What enqueues work for a call outside captures. If it throws, the caller calls `abandon`.
  void measure_and_keep(const CanonicalRouter& canonical, const at::Tensor& input, CallTokens call_tokens,
                        MeasuredRouter& router);
  /// Note [A hook checks itself]. Leaves out of `canonical` what is withheld.
  void check(const ReportedRouter& reported, CanonicalRouter& canonical, MeasuredRouter& router);
  /// For a call that threw after work was enqueued: its memory is not used again before that work is done.
  void abandon(c10::Device device) noexcept;
  void measure(const analysis::RouterCall& call, MeasuredRouter& router);
  void measure_replays(const analysis::RouterCall& call, MeasuredRouter& router);
  analysis::TransitionFrom count_transitions(const PendingRouters& routers, MeasuredRouter& router,
                                             const PendingRouters::Zeros& zeros);
  void keep_values(const analysis::RouterCall& call, MeasuredRouter& router);
  /// Undefined where it is not wanted or, as a notice says, not known.
  at::Tensor input_of(const CanonicalRouter& canonical, const ReportedRouter& reported, const std::string& name);

  const ForwardContext forward_;
  const RouterValues values_;
  const std::shared_ptr<RouterState> state_;
  HookChecks& checks_;

  std::mutex mutex_;  // guards what follows
  bool ended_ = false;
  std::vector<int32_t, RecyclingAllocator<int32_t>> calls_;  // by hook
  std::shared_ptr<HeldCalls> held_;                          // null: none so far
  PendingRouters measured_;
  PendingRouters replayed_;  // of the graph that is being captured
};

}  // namespace moetap::plugin
