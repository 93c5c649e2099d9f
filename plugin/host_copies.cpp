#include "plugin/host_copies.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

namespace moetap::plugin {
namespace {

c10::Stream current_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

}  // namespace

void HostCopies::mark_stream(c10::Device device) {
  if (device.is_cpu()) {
    return;
  }
  const auto stream = current_stream(device);
  auto origin = std::find_if(origins_.begin(), origins_.end(), [&](const Origin& o) { return o.stream == stream; });
  if (origin == origins_.end()) {
    origins_.push_back({stream, c10::Event(device.type())});
    origin = std::prev(origins_.end());
  }
  origin->computed.record(stream);
}

void HostCopies::join_streams(c10::Device device) {
  if (std::find(joined_.begin(), joined_.end(), device) != joined_.end()) {
    return;
  }
  joined_.push_back(device);
  const auto stream = current_stream(device);
  for (const auto& origin : origins_) {
    if (origin.stream.device() == device && origin.stream != stream) {
      origin.computed.block(stream);
    }
  }
}

at::Tensor HostCopies::copy(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.device().is_cpu()) {
    return tensor;
  }
  join_streams(tensor.device());
  auto host = at::empty(tensor.sizes(), tensor.options().device(at::kCPU).pinned_memory(true));
  host.copy_(tensor, /*non_blocking=*/true);
  sources_.push_back(tensor);
  return host;
}

void HostCopies::finish_enqueuing() {
  for (const auto device : joined_) {
    copied_.emplace_back(device.type());
    copied_.back().record(current_stream(device));
  }
}

void HostCopies::wait() {
  for (const auto& event : copied_) {
    event.synchronize();
  }
  copied_.clear();
  sources_.clear();
}

}  // namespace moetap::plugin
