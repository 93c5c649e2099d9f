#include "plugin/capture/graph_replays.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

#include "analysis/devices/device_kernels.h"
#include "analysis/numbers/fixed_point.h"
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

at::Tensor GraphReplays::zeros(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype) {
  const auto outside = analysis::device_kernels(device.type())->outside_captures();
  const c10::InferenceMode no_inference_tensor(false);
  const OnStream on_stream(stream_for_copies(device));
  at::Tensor memory = at::zeros(sizes, at::TensorOptions().dtype(dtype).device(device));
  c10::Event written(device.type());
  written.record(current_stream(device));
  written.synchronize();
  return memory;
}

void GraphReplays::add(PendingRouter router) {
  const std::lock_guard lock(mutex_);
  Accumulator sums{router.record.sums.words}, transitions{router.transition_counts};
  routers_.push_back({std::move(router), std::move(sums), std::move(transitions)});
}

std::optional<PendingRouter> GraphReplays::before(const PendingRouter& router) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(routers_.rbegin(), routers_.rend(),
                                  [&](const Router& known) { return comes_before(known.router, router, *model_); });
  return found == routers_.rend() ? std::nullopt : std::optional(found->router);
}

void GraphReplays::end() {
  const std::lock_guard lock(mutex_);
  if (routers_.empty()) return;
  const c10::Device device = routers_.front().sums.on_device.device();
  const analysis::DeviceKernels* kernels = analysis::device_kernels(device.type());
  TORCH_CHECK(kernels->is_capturing(device), "the graph must be captured of whole forwards");
  replays_.on_device = zeros(device, {1}, at::kLong);
  kernels->count_one(replays_.on_device);
  for (Router& captured : routers_) {
    PendingRouter& router = captured.router;
    router.first_slot = at::Tensor();
    auto group = std::make_shared<TokenGroup>();
    group->text = router.group->text;
    group->num_tokens = router.group->num_tokens;
    group->attribution = router.group->attribution;
    group->attribution.attributed = false;
    router.group = std::move(group);
  }
}

void GraphReplays::Accumulator::read() {
  if (on_device.defined()) now = on_device.to(at::kCPU);
}

at::Tensor GraphReplays::Accumulator::take_new() {
  if (!now.defined()) return {};
  const at::Tensor added = taken.defined() ? now - taken : now.clone();
  taken = now;
  return added;
}

std::unique_ptr<PendingForward> GraphReplays::take_new() {
  const std::lock_guard lock(mutex_);
  if (!replays_.on_device.defined()) return nullptr;
  const auto outside = analysis::device_kernels(replays_.on_device.device().type())->outside_captures();
  std::vector<c10::Device> waited;
  for (Router& captured : routers_) {
    const c10::Device device = captured.sums.on_device.device();
    if (std::find(waited.begin(), waited.end(), device) == waited.end()) {
      c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
      waited.push_back(device);
    }
    const OnStream on_stream(stream_for_copies(device));
    captured.sums.read();
    captured.transitions.read();
  }
  replays_.read();
  // Nothing is taken before all has been read.
  const int64_t replays = replays_.take_new().item<int64_t>();
  if (replays == 0) return nullptr;

  auto forward = std::make_unique<PendingForward>();
  forward->num_samples = 0;
  forward->record.model = model_;
  forward->record.method = method_;
  forward->record.generation = generation_;
  forward->record.replays = replays;
  for (Router& captured : routers_) {
    PendingRouter router = captured.router;
    router.record.sums.words = captured.sums.take_new();
    router.transition_counts = captured.transitions.take_new();
    const int64_t selections = router.record.sums.tokens() * std::max<int64_t>(1, router.record.sums.top_k);
    TORCH_CHECK(selections <= analysis::kMaxTermsPerCall, "at most ", analysis::kMaxTermsPerCall,
                " selections of a router may lie between two flushes, got ", selections,
                ": these replays are left out");
    forward->routers.push_back(std::move(router));
  }
  forward->start_copies();
  return forward;
}

}  // namespace moetap::plugin
