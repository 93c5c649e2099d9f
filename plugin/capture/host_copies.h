#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/util/SmallVector.h>

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "plugin/capture/device_blocks.h"

namespace moetap::plugin {

/// Allocates the memory of one forward's results and copies them to the host without making it wait: see Note [Blocks
/// of a forward]. CPU tensors are passed on uncopied. Works with any device that LibTorch has streams for, without
/// linking its library. Thread-safe until `finish_enqueuing`; tensors that are made after it do not lie in the
/// forward's memory. `wait`, `host_bytes` and `in_host_block` are for one thread.
class HostCopies {
 public:
  explicit HostCopies(std::shared_ptr<BlockPools> pools = nullptr) : pools_(std::move(pools)) {}
  /// Enqueues the reset of blocks that `finish_enqueuing` did not reset, since the forward threw.
  ~HostCopies();
  HostCopies(const HostCopies&) = delete;
  HostCopies& operator=(const HostCopies&) = delete;

  /// A tensor on `device` with any values.
  at::Tensor empty(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype);
  at::Tensor zeros(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype);
  /// A contiguous copy on the tensor's device, which the model cannot change; undefined for an undefined tensor.
  at::Tensor snapshot(const at::Tensor& tensor);
  /// Keeps a tensor that was allocated elsewhere until the marked streams are done with it. A CPU tensor needs no such
  /// care and is not kept.
  void keep(const at::Tensor& tensor);

  /// For a fork of the model that reports after the forward's end, or whose stream cannot be marked: it wrote to the
  /// forward's memory too late, so that no other forward may use its block on `device`. Call it while you still hold
  /// the tensors.
  void wrote_too_late(c10::Device device);

  /// Whether a graph is being captured on the device's current stream. The device is asked once for each stream: a
  /// forward that began outside of a capture ends there, too.
  bool is_capturing(c10::Device device);

  /// Call it after computing a tensor: marks the device's current stream, so that the copy waits for what it has
  /// enqueued so far. For the first stream that is marked, that of the forward, an event is recorded only where another
  /// stream has to wait for it.
  void mark_stream(c10::Device device);
  /// Makes the device's current stream wait for the marks on the device's other streams.
  void wait_for_marked(c10::Device device);

  /// Enqueues the copy; what it returns may be read after `wait`. An undefined tensor gives an undefined one.
  at::Tensor copy(const at::Tensor& tensor);
  /// Call it after the last `copy`.
  void finish_enqueuing();

  /// Bytes of the pinned memory that the blocks are copied to.
  int64_t host_bytes() const;
  /// Whether a CPU tensor is a piece of that memory.
  bool in_host_block(const at::Tensor& tensor) const;

  /// Blocks until all copies are done. May be called on another thread.
  void wait();

 private:
  struct Origin {
    c10::Stream stream;
    c10::Event computed;
    bool is_recorded = false;  // no mark since `computed` was recorded
  };
  /// What the forward holds on a device.
  struct OnDevice {
    c10::Device device;
    std::shared_ptr<DeviceBlock> block;     // null: the model's first forward shows how much is needed
    std::weak_ptr<DeviceBlock> spent = {};  // the block, once it was copied
    int64_t asked_without_block = 0;        // bytes
    at::Tensor host = {};                   // pinned copy of the block; defined once the copy is enqueued
    std::optional<c10::Event> copied = {};  // recorded after the last copy
    std::vector<at::Tensor> kept = {};      // until `copied`: the allocator must not reuse their memory before
  };

  at::Tensor piece(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype);
  // The caller holds mutex_.
  OnDevice& on(c10::Device device);
  void mark(c10::Device device);
  void join(c10::Device device, c10::Stream stream);
  c10::Stream copy_stream(const OnDevice& place) const;
  c10::Event new_event(c10::Device device) const;
  void begin_copies(OnDevice& place);

  const std::shared_ptr<BlockPools> pools_;
  std::mutex mutex_;  // guards what follows
  bool closed_ = false;
  bool captures_ = false;  // a stream was found in a capture: then each call asks
  c10::SmallVector<c10::Stream, 2> outside_captures_;
  std::vector<Origin> origins_;
  std::vector<std::unique_ptr<OnDevice>> devices_;
};

}  // namespace moetap::plugin
