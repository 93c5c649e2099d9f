#pragma once

#include <cstdint>
#include <vector>

#include "analysis/numbers/token_kernels.h"
#include "analysis/routers/host_call.h"

namespace moetap::analysis {

inline constexpr int32_t kNoSlot = -1;

/// The first two slots of a token: see Note [Slots are ranked by gate weight].
struct TokenSlots {
  int32_t first = kNoSlot;         // expert of the first slot
  double largest = 0, second = 0;  // w[0] and w[1]; 0: there is no such slot, or the call has no weights

  double margin() const { return largest - second; }
  /// Of the weights as they are recorded, in float32.
  float recorded_margin() const { return static_cast<float>(largest) - static_cast<float>(second); }
};

/// Memory of a thread for measuring, which grows to the largest call and is used again.
struct MeterMemory {
  std::vector<double> experts;       // values of the token at hand, one an expert
  std::vector<double> weights;       // its gate weights, one a slot
  std::vector<double> used_weights;  // those of slots that hold an expert
  std::vector<int64_t> ids;          // its ids, one a slot
  std::vector<int64_t> chosen;       // experts with nonzero weight
};

/// Measures tokens of a call, each in double precision, and adds them to sums.
class TokenMeter {
 public:
  TokenMeter(const HostRouterCall& call, const RouterSumsLayout& layout, MeterMemory& memory);

  /// Adds a token to the row and pairs at these addresses; returns its first slots. `pairs` is null where there is no
  /// table.
  TokenSlots add(int64_t token, int64_t* row, int64_t* pairs);

 private:
  int64_t* vector(RowVector which) const { return row_ + layout_.vector(which); }
  void count_term(RowScalarSum which, bool in_range);
  void add_term(RowScalarSum which, bool in_range, double value);
  void add_probabilities(int64_t token);
  void add_distribution(bool in_range, double entropy, int64_t top);
  void add_scores(int64_t token);
  TokenSlots add_slots(int64_t token, int64_t* pairs);
  void add_weight(int64_t id, double weight);
  void add_pairs(int64_t* pairs);

  const HostRouterCall& call_;
  const RouterSumsLayout layout_;
  const TokenKernels& kernels_;
  MeterMemory& memory_;
  int64_t* row_ = nullptr;
};

/// Writes the ids and weights of a token as they are recorded.
void write_slots(const HostRouterCall& call, int64_t token, const HostTokenOutputs& outputs);

}  // namespace moetap::analysis
