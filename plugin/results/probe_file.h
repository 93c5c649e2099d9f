#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "plugin/records/forward_record.h"
#include "plugin/records/layer_table.h"

namespace moetap::plugin {

/// The softmax probabilities of the first tokens of each layer: `moetap/probe.safetensors`, tensors COMPONENT.LAYER,
/// float32 [tokens, E].
class ProbeFile {
 public:
  explicit ProbeFile(int64_t tokens_a_layer) : tokens_a_layer_(tokens_a_layer) {}

  /// What a forward adds, for `add` and the journal; empty: nothing. `layers` must know its hooks. Changes nothing.
  std::string encode(const ForwardRecord& record, const LayerTable& layers) const;
  /// Adds what `encode` gave.
  void add(const std::string& encoded);

  /// Throws std::runtime_error if the file cannot be written. Writes none where no token was kept.
  void write(const std::string& path, const LayerTable& layers) const;

 private:
  struct Probe {
    int64_t num_experts = 0;
    std::vector<float> probabilities;  // [tokens, num_experts]
  };
  int64_t tokens_a_layer_;
  std::map<size_t, Probe> probes_;  // by layer
};

}  // namespace moetap::plugin
