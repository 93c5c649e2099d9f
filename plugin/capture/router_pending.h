#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "analysis/routers/token_outputs.h"
#include "plugin/capture/forward_tokens.h"
#include "plugin/capture/pending_report.h"
#include "plugin/capture/probed_tokens.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

// Note [The router before]
// Transitions lead to a router from the router before it: that of its component with the largest hook below its own, in
// the same call (loops). There are none if the two saw other tokens. `PendingRouters::before` is the only place that
// decides this.
//
// They are counted where the fewer bytes have to be copied. On a device with many tokens the kernel that measures the
// later router counts them from the first slots of the one before, which stay on the device. If the routers did not
// report in the order of the model, `prepare` counts them at the end of the forward. With few tokens, on the CPU, and
// between two devices the first slots are copied, and `finish` counts them on the writer thread.

/// A router call, measured: on the call's device, with rows for padding too, until it is recorded.
struct MeasuredRouter {
  RouterRecord record;                       // what it will be; `selected` is int32 so far
  std::shared_ptr<const TokenGroup> tokens;  // that it saw, N of them
  at::Tensor out_of_range;                   // int64 []; undefined: the sums have counted them
  at::Tensor first_slot;                     // int32 [N], the expert of the largest weight; -1: none
  bool first_slot_stays = false;             // on its device, where transitions are counted
  bool logits_of_first_tokens = false;       // `record.logits` are those of the first valid tokens, for the probe
  int64_t transition_from = -1;              // hook of the router that `transition_counts` were counted from; -1: none
  at::Tensor transition_counts;              // int64 [E of that router, E]; undefined: not counted so far
};

/// Whether transitions are counted on the device: true if an E x E matrix of int64 is smaller than one int32 a token.
bool counts_transitions_on_device(c10::Device device, int64_t num_tokens, int64_t num_experts);

/// The router calls of a forward. `finish` drops the rows of padding, fills in the columns of the tokens and adds the
/// transitions.
class PendingRouters final : public PendingReport {
 public:
  /// `probed`: of the model, counts what is recorded for the probe.
  PendingRouters(std::shared_ptr<const ModelDescription> model, std::shared_ptr<ProbedTokens> probed)
      : model_(std::move(model)), probed_(std::move(probed)) {}

  bool empty() const { return routers_.empty(); }

  /// In any order: forks report as they come.
  void add(MeasuredRouter router);

  using Zeros = std::function<at::Tensor(at::IntArrayRef sizes, at::ScalarType dtype)>;
  /// For a call that is about to be measured on its device's current stream: where to count its transitions, into
  /// memory of `zeros`. Nothing if they are not counted on the device, or not so far. The caller makes the stream wait
  /// for the router before.
  analysis::TransitionFrom count_transitions(MeasuredRouter& router, const Zeros& zeros) const;

  /// For calls that a graph captured: of single tokens nothing is known.
  void forget_tokens();

  void prepare(HostCopies& copies) override;
  std::vector<at::Tensor*> tensors() override;
  void finish(ForwardRecord& record) override;
  bool counts_text() const override;
  std::unique_ptr<PendingReport> clone() const override { return std::make_unique<PendingRouters>(*this); }

 private:
  /// The columns of a group, for the routers that tell of single tokens.
  struct Columns {
    std::shared_ptr<const TokenGroup> tokens;
    at::Tensor valid, token_ids;  // as of the group, copied
    // Without padding, once `finish` has made them. T = valid tokens.
    at::Tensor kept = {};  // int64 [T], places in the call; undefined: all
    int64_t num_kept = 0;
    at::Tensor row = {}, position = {}, token_id = {};

    void drop_padding(bool attributed);
    at::Tensor keep(const at::Tensor& rows) const;
  };

  const MeasuredRouter* before(const MeasuredRouter& router) const;
  MeasuredRouter* before(const MeasuredRouter& router);
  Columns& columns_of(const MeasuredRouter& router);
  void finish_router(MeasuredRouter& router, ForwardRecord& record);

  std::shared_ptr<const ModelDescription> model_;
  std::shared_ptr<ProbedTokens> probed_;
  std::vector<MeasuredRouter> routers_;  // in order of hooks, then of calls
  std::vector<Columns> columns_;         // made by `prepare`
};

}  // namespace moetap::plugin
