#include "plugin/capture/graph_replays.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

#include "analysis/devices/device_kernels.h"
#include "plugin/capture/device_stream.h"

namespace moetap::plugin {

GraphReplays::GraphReplays(std::shared_ptr<const ModelDescription> model, std::string method, bool generation)
    : model_(std::move(model)), method_(std::move(method)), generation_(generation) {}

std::shared_ptr<GraphReplays> GraphReplays::begin(std::shared_ptr<const ModelDescription> model, std::string method,
                                                  bool generation) {
  static auto* const mutex = new std::mutex;
  static auto* const kept = new std::vector<std::shared_ptr<GraphReplays>>;
  const std::lock_guard lock(*mutex);
  kept->push_back(std::shared_ptr<GraphReplays>(new GraphReplays(std::move(model), std::move(method), generation)));
  return kept->back();
}

at::Tensor GraphReplays::zeros(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype, int64_t first_largest) {
  const OutsideCaptures outside(device);
  const c10::InferenceMode no_inference_tensor(false);
  const OnStream on_stream(stream_for_copies(device));
  at::Tensor memory = at::zeros(sizes, at::TensorOptions().dtype(dtype).device(device));
  c10::Event written(device.type());
  written.record(current_stream(device));
  written.synchronize();
  const std::lock_guard lock(mutex_);
  sums_.push_back({memory, first_largest});
  return memory;
}

void GraphReplays::end(std::vector<std::unique_ptr<PendingReport>> reports) {
  c10::Device device = c10::kCPU;
  {
    const std::lock_guard lock(mutex_);
    TORCH_CHECK(!sums_.empty(), "none of its routers or attention layers was captured");
    device = sums_.front().on_device.device();
  }
  const analysis::DeviceKernels* kernels = analysis::device_kernels(device.type());
  TORCH_CHECK(kernels->is_capturing(device), "the graph must be captured of whole forwards");
  const at::Tensor replays = zeros(device, {1}, at::kLong);
  kernels->count_one(replays);
  const std::lock_guard lock(mutex_);
  replays_ = replays;
  reports_ = std::move(reports);
}

at::Tensor GraphReplays::Sums::added() const {
  at::Tensor result = taken.defined() ? now.sub(taken) : now.clone();
  if (first_largest < 0) return result;
  const int64_t count = now.size(0) - first_largest;
  result.narrow(0, first_largest, count).copy_(now.narrow(0, first_largest, count));
  return result;
}

void GraphReplays::read_all() {
  std::vector<c10::Device> waited;
  for (Sums& sums : sums_) {
    const c10::Device device = sums.on_device.device();
    const OutsideCaptures outside(device);
    if (std::find(waited.begin(), waited.end(), device) == waited.end()) {
      c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
      waited.push_back(device);
    }
    const OnStream on_stream(stream_for_copies(device));
    sums.now = sums.on_device.to(at::kCPU);
  }
}

at::Tensor GraphReplays::added_to(const at::Tensor& on_device) const {
  const auto found =
      std::find_if(sums_.begin(), sums_.end(), [&](const Sums& sums) { return sums.on_device.is_same(on_device); });
  TORCH_INTERNAL_ASSERT(found != sums_.end(), "a tensor of a captured forward is not from GraphReplays::zeros");
  return found->added();
}

std::unique_ptr<PendingForward> GraphReplays::take_new() {
  const std::lock_guard lock(mutex_);
  if (!replays_.defined()) return nullptr;
  read_all();
  const int64_t replays = added_to(replays_).item<int64_t>();
  if (replays == 0) return nullptr;

  auto forward = std::make_unique<PendingForward>();
  forward->num_samples = 0;
  forward->record.model = model_;
  forward->record.method = method_;
  forward->record.generation = generation_;
  forward->record.replays = replays;
  for (const auto& report : reports_) {
    forward->reports.push_back(report->clone());
    forward->reports.back()->visit_tensors([&](at::Tensor& tensor) {
      if (tensor.defined()) tensor = added_to(tensor);
    });
  }
  // All of it is taken or, if something above threw, nothing.
  for (Sums& sums : sums_) sums.taken = std::move(sums.now);
  return forward;
}

}  // namespace moetap::plugin
