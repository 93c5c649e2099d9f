#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plugin/capture/host_copies.h"
#include "plugin/capture/pending_report.h"
#include "plugin/process/recycled_memory.h"
#include "plugin/records/forward_record.h"

namespace moetap::plugin {

/// A value that the model logged as a tensor of one element.
struct PendingValue {
  std::pair<std::string, std::string> place;  // component, layer
  std::string name;
  at::Tensor value;
};

/// The number of each sample of a forward.
using SampleNumbers = std::vector<int64_t, RecyclingAllocator<int64_t>>;

/// A forward that has ended, on its way to the writer thread. For one thread at a time.
class PendingForward : public Recycled {
 public:
  explicit PendingForward(std::shared_ptr<HostCopies> forward_copies = std::make_shared<HostCopies>())
      : copies(std::move(forward_copies)) {}

  ForwardRecord record;     // `finish` adds `values` and what `reports` hold
  int64_t num_samples = 1;  // B
  SampleNumbers samples;    // what `finish` puts into the record; empty: the record has its own
  c10::SmallVector<std::unique_ptr<PendingReport>, 2> reports;  // one of each kind of hook at most
  std::vector<PendingValue> values;
  at::Tensor text_tokens;  // int64 []: valid tokens of the text; undefined: a report counts them, or there is no text
  std::shared_ptr<HostCopies> copies;

  /// In the forward: enqueues the copies to the host. Does not block.
  void start_copies();

  /// Bytes of host memory that the forward holds until it is written. Call it after `start_copies`.
  int64_t bytes();

  /// On the writer thread: waits for the copies and completes the record. Leaves this object without tensors. Throws
  /// std::exception if this forward cannot be recorded.
  ForwardRecord finish();
  /// On the writer thread: the sink has taken what `finish` returned.
  void recorded(const ForwardRecord& taken);

 private:
  void visit_tensors(PendingReport::Visit visit);
};

/// A 0-dimensional tensor's value in the type that JSON has for it.
CustomValue custom_value(const at::Tensor& scalar);

}  // namespace moetap::plugin
