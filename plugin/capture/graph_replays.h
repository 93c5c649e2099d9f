#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "plugin/capture/pending_forward.h"
#include "plugin/capture/pending_report.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

// Note [Graphs]
// While a CUDA graph is captured nothing runs: what the operators enqueue becomes part of the graph and runs with each
// replay, and nothing tells moetap of a replay. So the captured forward itself is no forward of the run. Its sums lie
// in memory of their own, to which every replay adds; a counter there counts the replays. When the session is flushed
// or closed, what was added since the last flush is recorded as one record of many forwards. Their samples, values and
// single tokens are not known: these forwards are in the summary, and not in the log or the dump.
//
// That memory is not part of the graph: its zeros are written at once, not with each replay. It is never freed, since
// nothing tells when the graph is destroyed. A flush waits for the devices, so that it contains all replays that were
// enqueued before it; CUDA forbids this while another graph is being captured. Between two flushes a router may make at
// most 2^26 selections (kMaxTermsPerCall), or its sums may not fit their words. If it makes more, all replays between
// these flushes are lost and counted as unwritten. So it is with the terms of a sum of an attention layer.

/// The sums of one forward that was captured into a graph. Thread-safe.
class GraphReplays {
 public:
  /// Made by `begin`, which keeps it until the process ends.
  static std::shared_ptr<GraphReplays> begin(std::shared_ptr<const ModelDescription> model, std::string method,
                                             bool generation);

  /// Zeros that replays add to; blocks until they are there. first_largest: from this one on, of one dimension, numbers
  /// are the largest of all replays so far, and recorded as such; -1: none.
  at::Tensor zeros(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype, int64_t first_largest = -1);

  /// The forward has been captured: adds the count of replays to the graph. All defined tensors of `reports` are from
  /// `zeros`. Throws c10::Error if the graph is no longer being captured.
  void end(std::vector<std::unique_ptr<PendingReport>> reports);

  /// What replays added since the last call; null: nothing. Waits for the devices. If it throws, nothing was taken.
  std::unique_ptr<PendingForward> take_new();

 private:
  GraphReplays(std::shared_ptr<const ModelDescription> model, std::string method, bool generation);

  /// Numbers that replays add to.
  struct Sums {
    at::Tensor on_device;
    int64_t first_largest = -1;
    at::Tensor taken = {}, now = {};  // on the host; `taken` undefined: nothing was taken so far

    at::Tensor added() const;
  };
  void read_all();
  at::Tensor added_to(const at::Tensor& on_device) const;

  const std::shared_ptr<const ModelDescription> model_;
  const std::string method_;
  const bool generation_;
  std::mutex mutex_;        // guards what follows
  std::vector<Sums> sums_;  // of all devices
  at::Tensor replays_;      // int64 [1], one of `sums_`; undefined: `end` was not called
  std::vector<std::unique_ptr<PendingReport>> reports_;
};

}  // namespace moetap::plugin
