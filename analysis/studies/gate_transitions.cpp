#include "analysis/studies/gate_transitions.h"

#include <cstddef>
#include <span>

namespace moetap::analysis::studies {

std::vector<int64_t> experts_of_layers(const ComponentShape& shape) {
  std::vector<int64_t> experts;
  for (const LayerShape& layer : shape.layers) experts.push_back(layer.num_experts);
  return experts;
}

GateTransitions::GateTransitions(const std::vector<int64_t>& num_experts) {
  for (size_t l = 0; l + 1 < num_experts.size(); ++l) sums_.emplace_back(num_experts[l], num_experts[l + 1]);
}

void GateTransitions::add(const TokenBatch& batch, std::span<const uint8_t> counts) {
  for (size_t l = 0; l < sums_.size(); ++l) {
    const LayerTokens& from = batch.layers[l];
    const LayerTokens& to = batch.layers[l + 1];
    if (from.gates.empty() || to.gates.empty()) continue;
    for (int64_t t = 0; t < batch.num_tokens; ++t) {
      if ((!counts.empty() && counts[static_cast<size_t>(t)] == 0) || !from.has_seen(t) || !to.has_seen(t)) continue;
      const auto from_ids = from.ids_of(t), to_ids = to.ids_of(t);
      const auto from_gates = from.gates_of(t), to_gates = to.gates_of(t);
      for (size_t a = 0; a < from_ids.size(); ++a) {
        if (from_ids[a] < 0) continue;
        sums_[l].make_room(from_ids[a], to.top_k);
        for (size_t b = 0; b < to_ids.size(); ++b) {
          if (to_ids[b] >= 0) sums_[l].add_in_room(from_ids[a], to_ids[b], from_gates[a] * to_gates[b]);
        }
      }
    }
  }
}

void GateTransitions::clear() {
  for (ExactTable& table : sums_) table.clear();
}

void GateTransitions::merge(const GateTransitions& other) {
  for (size_t l = 0; l < sums_.size(); ++l) sums_[l].merge(other.sums_[l]);
}

void GateTransitions::save(ByteSink& sink) const {
  for (const ExactTable& table : sums_) table.save(sink);
}

void GateTransitions::load(ByteSource& source) {
  for (ExactTable& table : sums_) table.load(source);
}

int64_t GateTransitions::out_of_range() const {
  int64_t total = 0;
  for (const ExactTable& table : sums_) total += table.out_of_range();
  return total;
}

std::vector<double> row_sums(const ExactTable& sums) {
  std::vector<double> totals;
  for (int64_t row = 0; row < sums.rows(); ++row) {
    double total = 0;
    for (int64_t column = 0; column < sums.width(); ++column) total += sums.value(row, column);
    totals.push_back(total);
  }
  return totals;
}

}  // namespace moetap::analysis::studies
