#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "plugin/capture/device_blocks.h"

namespace moetap::plugin {

/// The memory of one forward's results, and their way to the host without making it wait: see Note [Blocks of a
/// forward]. CPU tensors pass as they are. Works with any device that LibTorch has streams for, without linking its
/// library. Thread-safe until `finish_enqueuing`, after which memory is no longer the forward's; `wait`,
/// `host_bytes` and `in_host_block` are for one thread.
class HostCopies {
 public:
  explicit HostCopies(std::shared_ptr<BlockPools> pools = nullptr) : pools_(std::move(pools)) {}
  /// Forwards that threw leave their blocks to the next.
  ~HostCopies();
  HostCopies(const HostCopies&) = delete;
  HostCopies& operator=(const HostCopies&) = delete;

  /// On `device`, with any values.
  at::Tensor empty(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype);
  at::Tensor zeros(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype);
  /// A contiguous copy on the tensor's device, which the model may not change; undefined for an undefined tensor.
  at::Tensor snapshot(const at::Tensor& tensor);
  /// Keeps a tensor that was allocated elsewhere until its stream is done with it.
  void keep(const at::Tensor& tensor);

  /// For a fork of the model that reports after the forward's end: what it wrote to memory of the forward came too
  /// late. Call it before the tensors are let go.
  void wrote_too_late(c10::Device device);

  /// Call it where a tensor was computed: marks the device's current stream, so that the copy waits for it.
  void mark_stream(c10::Device device);
  /// Makes the device's current stream wait for what was marked on other streams of it.
  void wait_for_marked(c10::Device device);

  /// Enqueues the copy; what it returns may be read after `wait`. An undefined tensor gives an undefined one.
  at::Tensor copy(const at::Tensor& tensor);
  /// Call it after the last `copy`.
  void finish_enqueuing();

  /// Pinned memory of the blocks' copies.
  int64_t host_bytes() const;
  /// Whether a tensor of the host is a piece of that memory.
  bool in_host_block(const at::Tensor& tensor) const;

  /// Blocks until all copies are done. May be called on another thread.
  void wait();

 private:
  struct Origin {
    c10::Stream stream;
    c10::Event computed;
  };
  /// What the forward holds on a device.
  struct OnDevice {
    c10::Device device;
    std::shared_ptr<DeviceBlock> block;     // null: the first forward, which shows how much is needed
    std::weak_ptr<DeviceBlock> spent = {};  // the block, once it was copied
    int64_t asked_without_block = 0;        // bytes
    at::Tensor host = {};                   // pinned, of the block; defined once it is being copied
    std::optional<c10::Event> copied = {};  // behind the last copy
    std::vector<at::Tensor> kept = {};      // their memory must not be given to another stream before
  };

  at::Tensor piece(c10::Device device, at::IntArrayRef sizes, at::ScalarType dtype);
  // The caller holds mutex_.
  OnDevice& on(c10::Device device);
  void mark(c10::Device device);
  void join(c10::Device device, c10::Stream stream) const;
  c10::Stream copy_stream(const OnDevice& place) const;
  void begin_copies(OnDevice& place);

  const std::shared_ptr<BlockPools> pools_;
  std::mutex mutex_;  // guards what follows
  bool closed_ = false;
  std::vector<Origin> origins_;
  std::vector<std::unique_ptr<OnDevice>> devices_;
};

}  // namespace moetap::plugin
