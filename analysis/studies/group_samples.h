#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/studies/partial_bytes.h"
#include "analysis/studies/study.h"
#include "analysis/studies/used_experts.h"

namespace moetap::analysis::studies {

/// How often the tokens of each sample and group used each expert of each layer: what the studies of groups draw from.
/// Grows with samples: a sample takes a byte for each count below 128 (two below 16384, ...), at most layers * (E + 1).
class GroupSamples {
 public:
  explicit GroupSamples(const ComponentShape& shape);

  /// Batches of Order::kSamples. Tokens of sample −1 or group −1 are left out and counted.
  void observe(const TokenBatch& batch);
  void merge(const GroupSamples& other);
  void save(ByteSink& sink) const;
  void load(ByteSource& source);

  int64_t left_out() const { return left_out_; }

  /// Counts of one layer, samples of a group together, in the order of (sample, source).
  struct LayerCounts {
    std::vector<size_t> first_sample;  // [groups + 1]: samples of group g are first_sample[g] .. first_sample[g + 1]
    std::vector<double> tokens;        // [samples]
    std::vector<double> uses;          // [samples, E]; whole numbers
  };
  /// Calls `use(layer, counts)` for each layer, in order.
  template <typename Use>
  void for_layers(const Use& use) const {
    const std::vector<const Unit*> units = sorted();
    std::vector<size_t> cursors(units.size());
    for (size_t l = 0; l < shape_.layers.size(); ++l) use(l, layer_counts(units, l, cursors));
  }

 private:
  struct Unit {
    int64_t sample = 0;
    int32_t source = 0, group = 0;
    std::string counts;  // for each layer: tokens, then uses [E]; 7 bits a byte, the lowest first
  };

  std::vector<const Unit*> sorted() const;
  LayerCounts layer_counts(const std::vector<const Unit*>& units, size_t l, std::vector<size_t>& cursors) const;
  void observe_sample(const TokenBatch& batch, int64_t first, int64_t last);

  ComponentShape shape_;
  std::vector<Unit> units_;
  int64_t left_out_ = 0;
  UsedExperts used_;
  std::vector<uint64_t> counts_;  // of the sample at hand
  std::vector<int32_t> groups_;   // likewise
};

}  // namespace moetap::analysis::studies
