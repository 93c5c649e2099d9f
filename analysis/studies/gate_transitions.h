#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "analysis/studies/exact_table.h"
#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// T[l][x, y]: the sum, over tokens, slots a of layer l and slots b of layer l + 1, of g_a * g_b, where x and y are
/// the slots' experts. 16 bytes a pair of experts and pair of layers.
class GateTransitions {
 public:
  /// num_experts: of each layer, [L].
  explicit GateTransitions(const std::vector<int64_t>& num_experts);

  /// Adds the tokens t of the batch with counts[t] != 0; empty: all. A token that one of two layers has not seen adds
  /// nothing there.
  void add(const TokenBatch& batch, std::span<const uint8_t> counts);
  void merge(const GateTransitions& other);
  void clear();
  void save(ByteSink& sink) const;
  void load(ByteSource& source);

  int64_t num_pairs() const { return static_cast<int64_t>(sums_.size()); }
  const ExactTable& sums(int64_t pair) const { return sums_[static_cast<size_t>(pair)]; }
  int64_t out_of_range() const;

 private:
  std::vector<ExactTable> sums_;  // [L − 1] of [E of l, E of l + 1]
};

std::vector<int64_t> experts_of_layers(const ComponentShape& shape);

/// Sums of rows, [E].
std::vector<double> row_sums(const ExactTable& sums);

}  // namespace moetap::analysis::studies
