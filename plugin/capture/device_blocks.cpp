#include "plugin/capture/device_blocks.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/accumulate.h>

#include <algorithm>

#include "plugin/capture/device_stream.h"
#include "plugin/capture/tensor_alias.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kAlignment = 64;                   // bytes: what any element type and a wide load need
constexpr int64_t kGranularity = int64_t{64} << 10;  // so that forwards of about one size share their blocks

constexpr int64_t round_up(int64_t bytes, int64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

DeviceBlock::DeviceBlock(c10::Stream stream, int64_t capacity) : reset_(stream.device_type()) {
  // No inference tensor, whatever mode this thread is in: forwards in other modes use the block too. Allocated on the
  // stream that resets it, so that LibTorch reuses the memory only after a reset that is still enqueued.
  const c10::InferenceMode no_inference_tensor(false);
  const OnStream on_stream(stream);
  bytes_ = at::zeros({capacity}, at::TensorOptions().dtype(at::kByte).device(stream.device()));
  reset_.record(stream);
  reset_.synchronize();
}

int64_t DeviceBlock::bytes_for(at::IntArrayRef sizes, at::ScalarType dtype) {
  return round_up(c10::multiply_integers(sizes) * static_cast<int64_t>(c10::elementSize(dtype)), kAlignment);
}

at::Tensor DeviceBlock::take(at::IntArrayRef sizes, at::ScalarType dtype) {
  const int64_t begin = asked_.fetch_add(bytes_for(sizes, dtype), std::memory_order_relaxed);
  const int64_t bytes = c10::multiply_integers(sizes) * static_cast<int64_t>(c10::elementSize(dtype));
  if (begin + bytes > capacity()) return {};
  return alias_in(bytes_, begin, sizes, dtype);
}

int64_t DeviceBlock::used() const {
  return std::min(asked(), capacity());
}

void DeviceBlock::copy_to_host(const at::Tensor& host) const {
  alias_in(host, 0, {used()}, at::kByte).copy_(alias_in(bytes_, 0, {used()}, at::kByte), /*non_blocking=*/true);
}

void DeviceBlock::reset() {
  alias_in(bytes_, 0, {used()}, at::kByte).zero_();
  reset_.record(current_stream(bytes_.device()));
}

at::Tensor DeviceBlock::on_host(const at::Tensor& piece, const at::Tensor& host) const {
  const int64_t begin = piece.storage_offset() * static_cast<int64_t>(piece.element_size());
  return alias_in(host, begin, piece.sizes(), piece.scalar_type());
}

void DeviceBlock::spoil() noexcept {
  spoiled_ = true;
  try {
    const c10::impl::VirtualGuardImpl guard(bytes_.device().type());
    guard.recordDataPtrOnStream(bytes_.storage().data_ptr(), guard.getStream(bytes_.device()));
  } catch (const std::exception&) {
    // The allocator does not track streams. The block is still never used again.
  }
}

bool DeviceBlock::reclaim() {
  // The caller of `spoil` holds a piece until it returns: once nobody holds one, `spoiled_` is final.
  if (bytes_.storage().use_count() > 1 || !reset_.query() || spoiled_) return false;
  asked_ = 0;
  return true;
}

std::shared_ptr<DeviceBlock> BlockPool::take() {
  const std::lock_guard lock(mutex_);
  if (capacity_ == 0) return nullptr;
  // Another thread may be capturing a graph.
  const OutsideCaptures outside(device_);
  std::shared_ptr<DeviceBlock> found;
  std::erase_if(blocks_, [&](const std::shared_ptr<DeviceBlock>& block) {
    if (block->spoiled()) return true;
    if (found || block.use_count() > 1 || !block->reclaim()) return false;
    if (block->capacity() < capacity_) return true;
    found = block;
    return false;
  });
  if (!found) {
    found = std::make_shared<DeviceBlock>(side_stream_, capacity_);
    blocks_.push_back(found);
  }
  return found;
}

at::Tensor BlockPool::take_host(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  at::Tensor found;
  std::erase_if(host_blocks_, [&](const at::Tensor& block) {
    if (found.defined() || block.storage().use_count() > 1) return false;
    if (block.numel() < bytes) return true;
    found = block;
    return false;
  });
  if (!found.defined()) {
    const c10::InferenceMode no_inference_tensor(false);
    const OutsideCaptures outside(device_);
    found = at::empty({std::max(bytes, capacity_)}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    host_blocks_.push_back(found);
  }
  // A tensor of its own, so that it counts as a user of the storage.
  return alias_in(found, 0, found.sizes(), at::kByte);
}

void BlockPool::asked(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  capacity_ = std::max(capacity_, round_up(bytes, kGranularity));
}

c10::Event BlockPool::take_event() {
  const std::lock_guard lock(mutex_);
  if (events_.empty()) return c10::Event(device_.type());
  c10::Event event = std::move(events_.back());
  events_.pop_back();
  return event;
}

void BlockPool::give_event(c10::Event event) {
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
}

BlockPool& BlockPools::of(c10::Device device) {
  const std::lock_guard lock(mutex_);
  auto& pool = pools_[{device.type(), device.index()}];
  if (!pool) pool = std::make_unique<BlockPool>(device);
  return *pool;
}

}  // namespace moetap::plugin
