#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "plugin/records/config.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/run_layers.h"

namespace moetap::plugin {

/// The dump rows of one layer in one forward; the calls of a loop are concatenated. T rows, on the CPU.
struct LayerRows {
  size_t layer = 0;           // place in the run's LayerTable
  int64_t num_calls = 1;      // how often the layer reported in the forward
  at::Tensor row;             // int64 [T]: what tells the samples of the forward apart, -1 unknown
  at::Tensor position;        // int32 [T]
  at::Tensor token_id;        // int32 [T]
  at::Tensor call;            // int32 [T], number of the call, from 0
  at::Tensor selected;        // int16 or int32 [T, K]
  at::Tensor weights;         // float16 or float32 [T, K]; undefined: not in the dump, as the next three
  at::Tensor logits, scores;  // [T, E]
  at::Tensor input;           // [T, H], what enters the projection

  int64_t num_rows() const { return selected.size(0); }
  bool same_rows(const LayerRows& other) const;
};

/// All that one forward gives to the routing dump.
struct DumpedForward {
  /// What attention layers measured of single tokens.
  struct Attention {
    std::string component, layer;
    at::Tensor row, position;              // as in LayerRows
    at::Tensor values;                     // float32 [T, N]
    std::vector<std::string> value_names;  // N
  };
  int64_t index = 0;  // number of the forward in the run
  bool generation = false;
  /// Sample number of each `row`; empty: none is known, unless `rows_are_samples`.
  std::vector<int64_t> samples;
  bool rows_are_samples = false;  // `row` holds sample numbers
  std::vector<LayerRows> layers;  // in the order of their hooks
  std::vector<Attention> attention;
};

/// What a recorded forward gives to a dump of these columns. `layers` must know the record's hooks.
DumpedForward dumped_forward(const ForwardRecord& record, const RunLayers& layers, Dump what, DumpWeights weights);

}  // namespace moetap::plugin
