#pragma once

#include <ATen/core/List.h>
#include <ATen/core/ivalue.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "plugin/capture/graph_replays.h"
#include "plugin/capture/pending_forward.h"
#include "plugin/capture/router_report.h"
#include "plugin/session/host_values.h"
#include "plugin/session/model_binding.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {

/// Collects what one forward of one model reports, from `moetap::begin` to `moetap::end`; destroyed without `end`, the
/// forward has thrown. Thread-safe, since forks report on threads of their own. Never throws into the forward unless
/// the session is strict; the caller switches gradients off. Works on the devices of the tensors, on their current
/// streams, and does not wait for them.
class ForwardRecorder {
 public:
  /// `arguments`: the method's tensors, as the model's description names them.
  ForwardRecorder(std::shared_ptr<ModelBinding> binding, std::string method,
                  const c10::List<std::optional<at::Tensor>>& arguments);
  ~ForwardRecorder();
  ForwardRecorder(const ForwardRecorder&) = delete;
  ForwardRecorder& operator=(const ForwardRecorder&) = delete;

  void router(int64_t hook, const ReportedRouter& reported);

  /// A value that the model logs: a number, a bool or a tensor of one element; the last of a name counts.
  void log(std::string component, std::string layer, std::string name, const c10::IValue& value);

  void end();

 private:
  struct Capture {
    bool per_token = false;  // ids and weights of each token
    bool full = false;       // logits and scores of each token
    int64_t probe_tokens = 0;
  };

  void begin_on_this_thread();
  void read_texts(const c10::List<std::optional<at::Tensor>>& arguments);
  void capture(int64_t hook, const ReportedRouter& reported);
  /// Measures a call into memory of the forward.
  void observe(const analysis::RouterCall& call, HostCopies& copies, PendingRouter& router);
  /// The same, into memory that the replays of a graph add to.
  void observe_captured(const analysis::RouterCall& call, PendingRouter& router);
  void end_captured();
  struct RouterBefore {
    int64_t hook = -1;
    int64_t num_experts = 0;
    at::Tensor first_slot;  // undefined: there is none
    bool first_slot_stays = false;
  };
  /// The router before it in its component that saw the same tokens, if the routers report in the order of the model.
  RouterBefore router_before(const PendingRouter& router);
  at::Tensor probed_logits(TokenGroup& group, const at::Tensor& logits);
  /// `copies` null: a graph is being captured, whose tensors are not copied.
  std::shared_ptr<TokenGroup> token_group(TextOfComponent text, const CapturedRouter& captured, HostCopies* copies);
  /// `copies` null: nothing is told of single tokens, whose columns stay on the device.
  std::shared_ptr<TokenGroup> new_token_group(TextOfComponent text, const Attribution& attribution, int64_t num_tokens,
                                              c10::Device device, HostCopies* copies);
  const TextTokens* text_of(TextOfComponent text) const;
  QueryTokens query_tokens() const;
  void add_value(std::string component, std::string layer, std::string name, const c10::IValue& value);

  const std::shared_ptr<ModelBinding> binding_;
  const std::string method_;
  const Capture options_;
  const std::shared_ptr<ForwardValues> host_values_;
  SampleSource source_;  // its query is complete when the forward ends
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  TextTokens text_;  // of the encoder, or the only one
  TextTokens decoder_text_;

  std::mutex mutex_;  // guards what follows
  bool ended_ = false;
  std::optional<int64_t> batch_;  // samples of the forward
  std::vector<std::shared_ptr<TokenGroup>> groups_;
  std::map<int64_t, int64_t> calls_;  // of each hook
  std::unique_ptr<PendingForward> pending_ = std::make_unique<PendingForward>();
  std::shared_ptr<GraphReplays> captured_;  // a graph is being captured; null: it is not
};

}  // namespace moetap::plugin
