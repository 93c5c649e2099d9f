#pragma once

#include <ATen/core/List.h>
#include <ATen/core/ivalue.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "plugin/capture/attention_observer.h"
#include "plugin/capture/forward_context.h"
#include "plugin/capture/pending_forward.h"
#include "plugin/capture/router_observer.h"
#include "plugin/session/host_values.h"
#include "plugin/session/model_binding.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {

/// Passes what one forward of one model reports on to the observers of each kind of hook, from `moetap::begin` to
/// `moetap::end`. If it is destroyed without `end`, the forward has thrown. Thread-safe, since forks report on threads
/// of their own. Never throws into the forward unless the session is strict; the caller switches gradients off. Works
/// on the devices of the tensors, on their current streams, and waits for them only as a RouterObserver does.
class ForwardRecorder {
 public:
  /// `arguments`: the method's tensors, as the model's description names them.
  ForwardRecorder(std::shared_ptr<ModelBinding> binding, std::string method,
                  const c10::List<std::optional<at::Tensor>>& arguments);
  ~ForwardRecorder();
  ForwardRecorder(const ForwardRecorder&) = delete;
  ForwardRecorder& operator=(const ForwardRecorder&) = delete;

  void router(int64_t hook, const ReportedRouter& reported);
  void attention(int64_t hook, const ReportedAttention& reported);

  /// A value that the model logs: a number, a bool or a tensor of one element. The last value of a name counts.
  void log(std::string component, std::string layer, std::string name, const c10::IValue& value);

  void end();

 private:
  void begin_on_this_thread();
  /// Runs `observe` for a hook that has not stopped; a failure is counted and stops the hook. False: it failed.
  template <typename Observe>
  bool report(int64_t hook, const Observe& observe);
  void add_value(std::string component, std::string layer, std::string name, const c10::IValue& value);
  /// What the replays of the graph that is being captured add to; null: the forward has ended.
  std::shared_ptr<GraphReplays> replays();
  ForwardContext context();
  void end_replayed();
  void end_skipped();
  /// Whether a graph is being captured on the device of an argument.
  bool is_capturing(const c10::List<std::optional<at::Tensor>>& arguments) const;
  /// Hands the forward to the recording; throws std::exception.
  void record(std::unique_ptr<PendingForward> pending);
  /// Counts a forward whose `end` failed, unless the recording has counted it.
  void not_recorded(const std::exception& error);
  QueryTokens query_tokens() const;
  int64_t num_samples() const { return tokens_->batch().value_or(1); }
  AttentionValues attention_values(const c10::List<std::optional<at::Tensor>>& arguments) const;

  const std::shared_ptr<ModelBinding> binding_;
  const std::string method_;
  bool is_skipped_ = false;  // the forward is not to be recorded: constant once it has begun
  const std::shared_ptr<ForwardValues> host_values_;
  SampleSource source_;  // its query is complete when the forward ends
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  const std::shared_ptr<HostCopies> copies_;
  const std::shared_ptr<ForwardTokens> tokens_;

  std::mutex mutex_;  // guards what follows up to the observers, which lock for themselves
  bool ended_ = false;
  std::unique_ptr<PendingForward> pending_;
  std::shared_ptr<GraphReplays> replays_;  // null: no graph is being captured

  RouterObserver routers_;
  std::unique_ptr<AttentionObserver> attention_;  // null: attention is not recorded
};

}  // namespace moetap::plugin
