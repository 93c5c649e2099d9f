#pragma once

#include <cstdint>
#include <vector>

#include "analysis/studies/study.h"

namespace moetap::cli {

namespace studies = analysis::studies;

/// Owns what the views of a batch show. A reader fills the arrays; what stays empty is not in the batch.
struct LayerBuffer {
  std::vector<int32_t> ids;
  std::vector<double> weights, gates, scores, logits;
  std::vector<uint8_t> seen;
  int64_t foreign_ids = 0;

  void clear();  // keeps the memory
  studies::LayerTokens view(const studies::LayerShape& shape) const;
};

struct BatchBuffer {
  std::vector<int64_t> sample, forward;
  std::vector<int32_t> source, position, step, token_id, group;
  std::vector<uint8_t> phase, valid;
  std::vector<LayerBuffer> layers;
  studies::TokenBatch batch;

  void resize_labels(size_t n);
  /// The batch with views of all that is here.
  studies::TokenBatch& view(const studies::ComponentShape& shape, int64_t first, int64_t n);
};

enum class GateOption { kRaw, kTopK };

/// `--gate topk`: divides a token's gates by their sum over its slots; tokens whose sum is 0 keep their zeros.
void divide_by_sum_of_slots(std::vector<double>& gates, const std::vector<int32_t>& ids, int64_t top_k);

/// Ids outside [0, num_experts) become −1. Returns how many of them were neither −1 nor null experts' ids.
int64_t drop_foreign_ids(const studies::LayerShape& layer, std::vector<int32_t>& ids);

}  // namespace moetap::cli
