#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "analysis/routers/token_outputs.h"
#include "plugin/capture/forward_tokens.h"
#include "plugin/capture/held_calls.h"
#include "plugin/capture/hook_checks.h"
#include "plugin/capture/pending_report.h"
#include "plugin/capture/probed_tokens.h"
#include "plugin/process/recycled_memory.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

// Note [The router before]
// Transitions lead to a router from the router before it: of the routers of its component that reported in this
// forward, the one with the largest hook id below its own. In a loop, where hooks report several calls, both calls have
// the same number. There are no transitions if the two saw different tokens. `PendingRouters::before` is the only place
// that decides this.
//
// They are counted where fewer bytes have to be copied. With many tokens on one device, the kernel that measures the
// later router counts them from the first slots of both routers, which stay on the device. If the routers did not
// report in the order of the model, `prepare` counts them there at the end of the forward. With few tokens, on the CPU,
// or between two devices, the first slots are copied and `finish` counts the transitions on the writer thread.

/// A router call that was measured. Its tensors are on the call's device until the forward ends, then on the host; they
/// have rows for padding until `finish`.
struct MeasuredRouter {
  RouterRecord record;                       // what will be recorded; `selected` is int32 until `finish`
  std::shared_ptr<const TokenGroup> tokens;  // the tokens that it saw; N = their number
  analysis::RouterColumns columns = 0;       // with which it was measured
  at::Tensor misfits;                        // int64 [kNumRouterRelations]; undefined: no verdict is to come
  analysis::RouterVerdict verdict;           // on `misfits`, once `finish` has them
  at::Tensor out_of_range;                   // int64 []; undefined: the sums have counted them
  at::Tensor first_slot;                     // int32 [N], the expert of the largest weight; -1: none
  bool first_slot_stays = false;             // is not copied to the host: transitions are counted on its device
  bool logits_of_first_tokens = false;       // `record.logits` are those of the first valid tokens, for the probe
  int64_t transition_from = -1;              // hook of the router that `transition_counts` were counted from; -1: none
  at::Tensor transition_counts;              // int64 [E of that router, E]; undefined: not counted so far
  // Behind the call in a graph; null: no graph was being captured.
  std::shared_ptr<const c10::Event> captured;
};

/// What other kinds of hooks need of a router call at the forward's end. Tensors on the call's device.
struct RouterOfForward {
  int64_t hook = 0, call = 0;
  std::shared_ptr<const TokenGroup> tokens;
  at::Tensor selected;  // int32 [N, K], as in RouterRecord, with padding; undefined: it is not there yet
  at::Tensor weights;   // float32 [N, K]; undefined: the model has none
  int64_t num_experts = 0;
  bool checks = false;                              // the call's verdict is not back
  std::shared_ptr<const c10::Event> captured = {};  // as MeasuredRouter's
};

/// Whether transitions are counted on the device: true if an E x E matrix of int64 is smaller than one int32 a token.
bool counts_transitions_on_device(c10::Device device, int64_t num_tokens, int64_t num_experts);

/// The router calls of a forward. `finish` drops the rows of padding, fills in the columns of the tokens and adds the
/// transitions.
class PendingRouters final : public PendingReport, public Recycled {
 public:
  /// `probed`, `checks`: the model's; the first counts what is recorded for the probe.
  PendingRouters(std::shared_ptr<const ModelDescription> model, std::shared_ptr<ProbedTokens> probed,
                 std::shared_ptr<HookChecks> checks)
      : model_(std::move(model)), probed_(std::move(probed)), checks_(std::move(checks)) {}

  bool empty() const { return routers_.empty() && (!held_ || held_->empty()); }

  /// In any order: forks report as they come.
  void add(MeasuredRouter router);
  /// `per_token`: what is measured of them later has ids, weights and margins of each token. `record_held`: the record
  /// may hold them.
  void add_held(std::shared_ptr<HeldCalls> held, bool per_token, bool record_held);

  using Zeros = std::function<at::Tensor(at::IntArrayRef sizes, at::ScalarType dtype)>;
  /// For a call that is about to be measured on its device's current stream: the first slots of the router before, and
  /// where the kernel counts the transitions, in memory from `zeros`. Empty if they are not counted on the device, or
  /// the router before has not reported yet. In a graph that is being captured, makes the stream wait for the router
  /// before; else the caller does so.
  analysis::TransitionFrom count_transitions(MeasuredRouter& router, const Zeros& zeros) const;

  /// All calls, in order of hooks, then of calls.
  std::vector<RouterOfForward> calls() const;

  /// For calls that a graph captured: removes what tells of single tokens, which are not known in replays.
  void forget_tokens();

  void prepare(HostCopies& copies) override;
  void visit_tensors(Visit visit) override;
  int64_t bytes() const override { return held_ ? held_->bytes() : 0; }
  void finish(ForwardRecord& record) override;
  void recorded(const ForwardRecord& record) override;
  bool counts_text() const override;
  std::unique_ptr<PendingReport> clone() const override { return std::make_unique<PendingRouters>(*this); }

 private:
  /// The columns of a group, for the routers that tell of single tokens.
  struct Columns {
    std::shared_ptr<const TokenGroup> tokens;
    at::Tensor valid, token_ids, places;  // as in the group, then copied to the host
    // Without padding, once `finish` has made them. T = valid tokens.
    at::Tensor kept = {};  // int64 [T], indices of the valid tokens in the call; undefined: all are valid
    int64_t num_kept = 0;
    at::Tensor row = {}, position = {}, token_id = {};

    void drop_padding();
    at::Tensor keep(const at::Tensor& rows) const;
  };

  const MeasuredRouter* before(const MeasuredRouter& router) const;
  MeasuredRouter* before(const MeasuredRouter& router);
  Columns& columns_of(const MeasuredRouter& router);
  void finish_router(MeasuredRouter& router, ForwardRecord& record);
  /// Whether a record of `num_samples` samples can hold the held calls.
  bool can_record_held(size_t num_samples) const;
  void finish_held(ForwardRecord& record);
  /// Takes what is withheld out of a finished call. False: nothing of it may be recorded.
  bool withhold(MeasuredRouter& router);

  std::shared_ptr<const ModelDescription> model_;
  std::shared_ptr<ProbedTokens> probed_;
  std::shared_ptr<HookChecks> checks_;
  std::vector<MeasuredRouter> routers_;  // in order of hooks, then of calls
  std::shared_ptr<HeldCalls> held_;      // null: none
  bool held_per_token_ = false, record_held_ = false;
  std::vector<Columns> columns_;  // made by `prepare`
};

}  // namespace moetap::plugin
