#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <cstdint>
#include <memory>

namespace moetap::plugin {

class HostCopies;
struct ForwardRecord;

/// What all hooks of one kind reported in one forward, on its way from the forward to its record. For one thread at a
/// time.
class PendingReport {
 public:
  virtual ~PendingReport() = default;

  /// In the forward, once everything was reported: enqueues what is computed from several reports on their device, and
  /// releases tensors that the host does not need. Does not block; makes the current streams of the devices wait for
  /// the streams that computed what it reads.
  virtual void prepare(HostCopies& /*copies*/) {}

  using Visit = c10::function_ref<void(at::Tensor&)>;
  /// Visits all tensors that the record needs and all others that the report holds until `finish`, undefined ones too.
  /// The forward replaces them by their copies on the host and counts their bytes.
  virtual void visit_tensors(Visit visit) = 0;

  /// Bytes of host memory that the report holds besides tensors.
  virtual int64_t bytes() const { return 0; }

  /// On the writer thread, after the copies: adds the report to `record`, whose `samples` and `replays` are set. Called
  /// once; keeps no tensor. Throws std::exception if this forward cannot be recorded.
  virtual void finish(ForwardRecord& record) = 0;

  /// On the writer thread, after `finish`: the sink has taken the record. Not called for a record that was lost.
  virtual void recorded(const ForwardRecord& /*record*/) {}

  /// True if the report tells how many valid tokens the forward's text has.
  virtual bool counts_text() const { return false; }

  /// A copy that shares the tensors. Only for reports of captured graphs, which are finished once for each flush.
  virtual std::unique_ptr<PendingReport> clone() const = 0;
};

}  // namespace moetap::plugin
