#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "plugin/capture/device_stream.h"

namespace moetap::plugin {

// Note [Blocks of a forward]
// What a forward reports on a device lies in one block of that device's memory. So one operation copies it, into one
// block of pinned host memory, and one operation resets it. Nothing is allocated once the largest forward has been
// seen. Copy and reset are enqueued on a stream of their own: the host's stream does not wait for them.
//
// A block is free again when nobody holds a piece of it; a block of a device must have been reset as well. Pieces are
// tensors that share the block's storage, and the storage's use count tells whether any is held. So a sink may keep
// what it was given. The bound of the queue also bounds the number of blocks, since the bytes of every forward that
// holds one count in the queue.

/// The memory of one forward on one device: a block of zeros there, cut into pieces. Pieces may be taken on
/// several threads at once.
class DeviceBlock {
 public:
  /// `stream`: of its device, the one on which it will be reset. Blocks until the zeros are written.
  DeviceBlock(c10::Stream stream, int64_t capacity);

  /// Bytes that such a piece takes of a block.
  static int64_t bytes_for(at::IntArrayRef sizes, at::ScalarType dtype);

  /// A contiguous piece of zeros; undefined if no room is left.
  at::Tensor take(at::IntArrayRef sizes, at::ScalarType dtype);

  /// Whether a tensor is a piece of it.
  bool holds(const at::Tensor& tensor) const { return tensor.storage().is_alias_of(bytes_.storage()); }

  /// Enqueues the copy of all pieces into `host` on the device's current stream.
  void copy_to_host(const at::Tensor& host) const;
  /// Enqueues zeros for all pieces on the device's current stream.
  void reset();

  /// The part of `host` that `piece` was copied to.
  at::Tensor on_host(const at::Tensor& piece, const at::Tensor& host) const;

  int64_t capacity() const { return bytes_.numel(); }
  int64_t used() const;
  /// Bytes that were asked for, including those for which no room was left.
  int64_t asked() const { return asked_.load(std::memory_order_relaxed); }
  /// If nobody holds a piece, the reset is done and the block is not spoiled: makes all of it free to be taken, returns
  /// true.
  bool reclaim();
  /// The block is never used again: its reset failed, or the device's current stream writes to a piece after the reset.
  void spoil() noexcept;
  bool spoiled() const { return spoiled_; }

 private:
  at::Tensor bytes_;  // uint8 [capacity]
  std::atomic<int64_t> asked_ = 0;
  std::atomic<bool> spoiled_ = false;
  c10::Event reset_;
};

/// The blocks of one device and their counterparts in pinned host memory. Thread-safe.
class BlockPool {
 public:
  explicit BlockPool(c10::Device device) : device_(device), side_stream_(stream_for_copies(device)) {}

  /// A free block, large enough for the largest forward so far; null before the first forward has ended. If none is
  /// free it allocates one, which blocks.
  std::shared_ptr<DeviceBlock> take();
  /// Pinned memory of that size or more, uint8, that nobody else holds.
  at::Tensor take_host(int64_t bytes);
  /// A forward has asked for `bytes`: blocks that are taken from now on are that large or larger.
  void asked(int64_t bytes);
  /// An event of the device, in any state; one that was given back, if there is one.
  c10::Event take_event();
  /// For an event that nobody waits for or queries any more.
  void give_event(c10::Event event);
  /// Where copies and resets are enqueued.
  c10::Stream side_stream() const { return side_stream_; }

 private:
  const c10::Device device_;
  const c10::Stream side_stream_;
  std::mutex mutex_;  // guards what follows
  int64_t capacity_ = 0;
  std::vector<std::shared_ptr<DeviceBlock>> blocks_;
  std::vector<at::Tensor> host_blocks_;
  std::vector<c10::Event> events_;  // that nobody uses
};

/// The pools of all devices that forwards of one model ran on. Thread-safe.
class BlockPools {
 public:
  BlockPool& of(c10::Device device);

 private:
  std::mutex mutex_;
  std::map<std::pair<c10::DeviceType, c10::DeviceIndex>, std::unique_ptr<BlockPool>> pools_;
};

}  // namespace moetap::plugin
