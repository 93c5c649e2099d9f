#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "plugin/capture/pending_forward.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

// Note [Graphs]
// While a graph of CUDA is captured nothing runs: what the operators enqueue is kept and runs with each replay, without
// the host's knowing. So a captured forward is no forward of the run. Its sums lie in memory of their own, to which
// every replay adds, with a counter of the replays. When the session is flushed or closed, what was added since is
// recorded as one record of many forwards. Their samples, values and single tokens are not known: they are in the
// summary, and not in the log or the dump.
//
// That memory is not the graph's: its zeros are written at once, not with each replay. It is never freed, since nobody
// tells when the graph goes. A flush waits for the devices, so that all replays that were enqueued before are in it;
// CUDA forbids that while another graph is being captured. One is needed at least every 2^26 selections of a router
// (kMaxTermsPerCall), or its sums may not fit their words.

/// What a forward that was captured into a graph adds up. Thread-safe.
class GraphReplays {
 public:
  /// Made by `begin`, which keeps it until the process ends.
  static std::shared_ptr<GraphReplays> begin(std::shared_ptr<const ModelDescription> model, std::string method,
                                             bool generation);

  /// Zeros that replays add to; blocks until they are there.
  at::Tensor zeros(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype);

  /// A router call whose sums (and transitions) lie in such memory.
  void add(PendingRouter router);
  /// The router call before it, if calls are added in the order of the model.
  std::optional<PendingRouter> before(const PendingRouter& router) const;

  /// The forward has been captured: enqueues what counts its replays. Lets go of what only the capture needed.
  void end();

  /// What replays added since the last call; null: nothing. Waits for the devices.
  std::unique_ptr<PendingForward> take_new();

 private:
  GraphReplays(std::shared_ptr<const ModelDescription> model, std::string method, bool generation);

  /// Memory of a device and what was taken from it already.
  struct Accumulator {
    at::Tensor on_device;
    at::Tensor now = {}, taken = {};  // on the host; undefined: nothing
    void read();
    /// What was added since it was taken before.
    at::Tensor take_new();
  };
  struct Router {
    PendingRouter router;
    Accumulator sums, transitions;
  };

  const std::shared_ptr<const ModelDescription> model_;
  const std::string method_;
  const bool generation_;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<Router> routers_;
  Accumulator replays_;  // int64 [1]
};

}  // namespace moetap::plugin
