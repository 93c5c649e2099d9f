#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <vector>

namespace moetap::plugin {

/// Copies tensors of one forward from their devices to pinned host memory without making the host wait. CPU tensors
/// pass as they are. Works with any device that LibTorch has streams for, without linking its library. Not thread-safe.
class HostCopies {
 public:
  /// Call it where a tensor was computed: marks the device's current stream, so that a copy on another stream waits for
  /// it.
  void mark_stream(c10::Device device);

  /// Enqueues the copy on the device's current stream; the result may be read after `wait`. Keeps `tensor` alive until
  /// this object dies, so that its memory is not given to another stream meanwhile. An undefined tensor gives an
  /// undefined one.
  at::Tensor copy(const at::Tensor& tensor);

  /// Call it after the last `copy`.
  void finish_enqueuing();

  /// Blocks until all copies are done. May be called on another thread.
  void wait();

 private:
  void join_streams(c10::Device device);

  struct Origin {
    c10::Stream stream;
    c10::Event computed;
  };

  std::vector<Origin> origins_;      // streams that results came from
  std::vector<c10::Device> joined_;  // devices whose current stream waits for them
  std::vector<c10::Event> copied_;
  std::vector<at::Tensor> sources_;
};

}  // namespace moetap::plugin
