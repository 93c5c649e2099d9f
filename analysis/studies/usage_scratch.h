#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis/studies/exact_table.h"
#include "analysis/studies/gate_transitions.h"
#include "analysis/studies/token_batch.h"

namespace moetap::analysis::studies {

/// How often each layer's experts were selected, and with which gates. E: the most experts that a layer has.
struct UsageSums {
  int64_t num_layers = 0;
  int64_t num_experts = 0;
  bool has_gates = false;
  std::vector<int64_t> counts;  // [L, E] slots
  ExactTable gates;             // [L, E] sums of gates

  UsageSums() = default;
  UsageSums(int64_t num_layers, int64_t num_experts);

  void add(const TokenBatch& batch, bool with_padding);
  void merge(const UsageSums& other);
  void clear();
  void save(ByteSink& sink) const;
  void load(ByteSource& source);
};

/// Seven studies are made of the same sums, two of the same transitions. They are counted once a batch, for all studies
/// of a worker: a batch is long against L * E. Not thread-safe.
class UsageScratch {
 public:
  /// Before each batch.
  void begin() {
    parts_[0].has_usage = parts_[0].has_transitions = parts_[1].has_usage = parts_[1].has_transitions = false;
  }

  /// The sums of the present batch.
  const UsageSums& of(const TokenBatch& batch, bool with_padding);
  /// The transitions of the present batch. Null: it is so short that adding its tokens takes less than adding its sums.
  const GateTransitions* transitions_of(const TokenBatch& batch, bool with_padding);

 private:
  void begin(const TokenBatch& batch);

  struct Part {
    std::optional<UsageSums> usage;
    std::optional<GateTransitions> transitions;
    bool has_usage = false, has_transitions = false;  // of the present batch
  };

  Part parts_[2];                     // without padding, with it
  std::vector<int64_t> num_experts_;  // [L] of the batches so far
};

}  // namespace moetap::analysis::studies
