#include "plugin/capture/host_copies.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "plugin/capture/device_stream.h"

namespace moetap::plugin {

HostCopies::~HostCopies() {
  for (const auto& place : devices_) {
    if (!place->block) continue;
    try {
      join(place->device, copy_stream(*place));
      const OnStream on_stream(copy_stream(*place));
      place->block->reset();
    } catch (const std::exception&) {
      place->block->spoil();
    }
  }
  if (!pools_) return;
  for (Origin& origin : origins_) pools_->of(origin.stream.device()).give_event(std::move(origin.computed));
  for (const auto& place : devices_) {
    if (place->copied) pools_->of(place->device).give_event(std::move(*place->copied));
  }
}

bool HostCopies::is_capturing(c10::Device device) {
  if (device.is_cpu()) return false;
  const auto stream = current_stream(device);
  const std::lock_guard lock(mutex_);
  const bool is_known =
      std::find(outside_captures_.begin(), outside_captures_.end(), stream) != outside_captures_.end();
  if (is_known && !captures_) return false;
  if (plugin::is_capturing(device)) {
    captures_ = true;
    return true;
  }
  if (!is_known) outside_captures_.push_back(stream);
  return false;
}

HostCopies::OnDevice& HostCopies::on(c10::Device device) {
  const auto found =
      std::find_if(devices_.begin(), devices_.end(), [&](const auto& place) { return place->device == device; });
  if (found != devices_.end()) return **found;
  devices_.push_back(std::make_unique<OnDevice>(OnDevice{device, pools_ ? pools_->of(device).take() : nullptr}));
  return *devices_.back();
}

at::Tensor HostCopies::piece(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype) {
  const std::lock_guard lock(mutex_);
  if (closed_) return {};
  OnDevice& place = on(device);
  if (place.block) return place.block->take(sizes, dtype);
  place.asked_without_block += DeviceBlock::bytes_for(sizes, dtype);
  return {};
}

at::Tensor HostCopies::empty(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype) {
  at::Tensor tensor = device.is_cpu() ? at::Tensor() : piece(device, sizes, dtype);
  if (tensor.defined()) return tensor;
  const OutsideCaptures outside(device);
  return at::empty(sizes, at::TensorOptions().dtype(dtype).device(device));
}

at::Tensor HostCopies::zeros(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype) {
  at::Tensor tensor = device.is_cpu() ? at::Tensor() : piece(device, sizes, dtype);
  if (tensor.defined()) return tensor;
  const OutsideCaptures outside(device);
  return at::zeros(sizes, at::TensorOptions().dtype(dtype).device(device));
}

at::Tensor HostCopies::snapshot(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  at::Tensor copied = tensor.is_cpu() ? at::Tensor() : piece(tensor.device(), tensor.sizes(), tensor.scalar_type());
  if (copied.defined()) return copied.copy_(tensor, /*non_blocking=*/true);
  const OutsideCaptures outside(tensor.device());
  return tensor.clone(at::MemoryFormat::Contiguous);
}

void HostCopies::keep(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return;
  const std::lock_guard lock(mutex_);
  if (!closed_) on(tensor.device()).kept.push_back(tensor);
}

void HostCopies::mark_stream(c10::Device device) {
  if (device.is_cpu()) return;
  const std::lock_guard lock(mutex_);
  mark(device);
}

void HostCopies::mark(c10::Device device) {
  const auto stream = current_stream(device);
  auto origin = std::find_if(origins_.begin(), origins_.end(), [&](const Origin& o) { return o.stream == stream; });
  if (origin == origins_.end()) {
    origins_.push_back({stream, new_event(device)});
    origin = std::prev(origins_.end());
  }
  origin->is_recorded = origin != origins_.begin();
  if (origin->is_recorded) origin->computed.record(stream);
}

void HostCopies::wait_for_marked(c10::Device device) {
  if (device.is_cpu()) return;
  const std::lock_guard lock(mutex_);
  join(device, current_stream(device));
}

void HostCopies::join(c10::Device device, c10::Stream stream) {
  for (Origin& origin : origins_) {
    if (origin.stream.device() != device || origin.stream == stream) continue;
    if (!origin.is_recorded) origin.computed.record(origin.stream);
    origin.is_recorded = true;
    origin.computed.block(stream);
  }
}

c10::Stream HostCopies::copy_stream(const OnDevice& place) const {
  return pools_ ? pools_->of(place.device).side_stream() : current_stream(place.device);
}

c10::Event HostCopies::new_event(c10::Device device) const {
  return pools_ ? pools_->of(device).take_event() : c10::Event(device.type());
}

void HostCopies::begin_copies(OnDevice& place) {
  if (place.copied) return;
  mark(place.device);  // what was computed since, on this thread
  place.copied.emplace(new_event(place.device));
  join(place.device, copy_stream(place));
  if (!place.block) return;
  const OnStream on_stream(copy_stream(place));
  place.host = pools_->of(place.device).take_host(place.block->used());
  place.block->copy_to_host(place.host);
}

at::Tensor HostCopies::copy(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.device().is_cpu()) return tensor;
  const std::lock_guard lock(mutex_);
  OnDevice& place = on(tensor.device());
  begin_copies(place);
  if (place.block && place.block->holds(tensor) && tensor.is_contiguous())
    return place.block->on_host(tensor, place.host);
  const OnStream on_stream(copy_stream(place));
  at::Tensor host;
  {
    const OutsideCaptures outside(tensor.device());
    host = at::empty(tensor.sizes(), tensor.options().device(at::kCPU).pinned_memory(true));
  }
  host.copy_(tensor, /*non_blocking=*/true);
  place.kept.push_back(tensor);
  return host;
}

void HostCopies::finish_enqueuing() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  for (const auto& place : devices_) {
    begin_copies(*place);
    place->copied->record(copy_stream(*place));
    if (pools_) pools_->of(place->device).asked(place->block ? place->block->asked() : place->asked_without_block);
    if (!place->block) continue;
    const OnStream on_stream(copy_stream(*place));
    place->block->reset();
    place->spent = std::exchange(place->block, nullptr);
  }
}

void HostCopies::wrote_too_late(c10::Device device) {
  const std::lock_guard lock(mutex_);
  for (const auto& place : devices_) {
    const auto block = place->block ? place->block : place->spent.lock();
    if (place->device == device && block) block->spoil();
  }
}

int64_t HostCopies::host_bytes() const {
  int64_t bytes = 0;
  for (const auto& place : devices_) bytes += place->host.defined() ? place->host.numel() : 0;
  return bytes;
}

bool HostCopies::in_host_block(const at::Tensor& tensor) const {
  return std::any_of(devices_.begin(), devices_.end(), [&](const auto& place) {
    return place->host.defined() && tensor.storage().is_alias_of(place->host.storage());
  });
}

void HostCopies::wait() {
  // Polls: a thread that waits for a CUDA event keeps a core of the host busy.
  constexpr std::chrono::microseconds kShortest{20}, kLongest{500};
  for (const auto& place : devices_) {
    const OutsideCaptures outside(place->device);
    auto pause = kShortest;
    while (place->copied && !place->copied->query()) {
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 2, kLongest);
    }
    place->kept.clear();
  }
}

}  // namespace moetap::plugin
