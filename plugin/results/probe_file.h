#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "plugin/records/forward_record.h"
#include "plugin/records/layer_table.h"

namespace moetap::plugin {

/// The file probe.safetensors: for each layer the softmax of the logits of its first tokens, a tensor COMPONENT.LAYER,
/// float32 [tokens, E].
class ProbeFile {
 public:
  explicit ProbeFile(int64_t tokens_a_layer) : tokens_a_layer_(tokens_a_layer) {}

  /// What a forward adds, encoded for `add` and the journal; empty: nothing. `layers` must know the record's hooks.
  /// Changes nothing.
  std::string encode(const ForwardRecord& record, const LayerTable& layers) const;
  /// Of what `encode` gave for another run: what this file still has room for. `places`: of that run's layers here.
  std::string take(const std::string& encoded, const std::vector<size_t>& places) const;
  /// Adds what `encode` or `take` gave.
  void add(const std::string& encoded);

  /// Writes the file; none if no token was kept. Throws std::runtime_error if it cannot be written.
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
