#include "cli/studies/batch_buffer.h"

#include "analysis/studies/vector_loops.h"

namespace moetap::cli {

void LayerBuffer::clear() {
  ids.clear();
  for (std::vector<double>* values : {&weights, &gates, &scores, &logits}) values->clear();
  seen.clear();
  foreign_ids = 0;
}

studies::LayerTokens LayerBuffer::view(const studies::LayerShape& shape) const {
  studies::LayerTokens tokens;
  tokens.num_experts = shape.num_experts;
  tokens.top_k = shape.top_k;
  tokens.ids = ids;
  tokens.weights = weights;
  tokens.gates = gates;
  tokens.scores = scores;
  tokens.logits = logits;
  tokens.seen = seen;
  tokens.foreign_ids = foreign_ids;
  return tokens;
}

void BatchBuffer::resize_labels(size_t n) {
  sample.resize(n);
  source.resize(n);
  forward.resize(n);
  position.resize(n);
  step.resize(n);
  token_id.resize(n);
  phase.resize(n);
}

studies::TokenBatch& BatchBuffer::view(const studies::ComponentShape& shape, int64_t first, int64_t n) {
  batch.first_token = first;
  batch.num_tokens = n;
  batch.sample = sample;
  batch.source = source;
  batch.forward = forward;
  batch.position = position;
  batch.step = step;
  batch.token_id = token_id;
  batch.phase = phase;
  batch.valid = valid;
  batch.group = group;
  batch.layers.clear();
  for (size_t l = 0; l < layers.size(); ++l) batch.layers.push_back(layers[l].view(shape.layers[l]));
  return batch;
}

void divide_by_sum_of_slots(std::vector<double>& gates, const std::vector<int32_t>& ids, int64_t top_k) {
  const auto width = static_cast<size_t>(top_k);
  for (size_t begin = 0; begin < gates.size(); begin += width) {
    double sum = 0;
    for (size_t slot = begin; slot < begin + width; ++slot) sum += ids[slot] < 0 ? 0 : gates[slot];
    if (sum == 0) continue;
    for (size_t slot = begin; slot < begin + width; ++slot) gates[slot] /= sum;
  }
}

int64_t drop_foreign_ids(const studies::LayerShape& layer, std::vector<int32_t>& ids) {
  if (analysis::studies::vector_loops().are_below(ids.data(), ids.size(), layer.num_experts)) return 0;
  const int64_t end = layer.num_experts + layer.null_experts;
  int64_t foreign = 0;
  for (int32_t& id : ids) {
    if (id >= 0 && id < layer.num_experts) continue;
    if (id < -1 || id >= end) ++foreign;
    id = -1;
  }
  return foreign;
}

}  // namespace moetap::cli
