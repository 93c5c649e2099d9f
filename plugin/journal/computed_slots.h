#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "analysis/routers/host_call.h"

namespace moetap::plugin {

// Note [Ids and weights from logits]
// Most routers take the largest logits: then their ids are not written.
//
// Most routers' weights are the softmax of the logits, of all experts or of the chosen ones, but for the last bits.
// Then a weight is written as its distance from what is computed here, counted in floats: one byte instead of four. The
// computation has the same bits wherever it runs: its file is compiled without contraction (CMakeLists.txt).

/// The logits of a call as floats, which are converted once.
class CallLogits {
 public:
  /// Empty: the call has none, or floats would not hold them. `call` must outlive what is returned.
  static std::optional<CallLogits> of(const analysis::HostRouterCall& call);

  std::span<const float> of_token(int64_t token) const;

 private:
  explicit CallLogits(const analysis::HostRouterCall& call) : call_(call) {}

  const analysis::HostRouterCall& call_;
  std::vector<float> converted_;  // empty: they are floats
};

/// The ids of the largest logits in descending order, ties to the lower id; -1 where none is left that is a number.
std::vector<int32_t> largest_logits(std::span<const float> logits, int64_t top_k);
/// Whether `ids`, experts or -1, is what `largest_logits` gives.
bool are_largest(std::span<const float> logits, std::span<const int32_t> ids);

enum class SoftmaxOver { kSlots, kAllExperts };
/// The weights of a token's slots. False: the logits or ids do not allow it.
bool compute_weights(std::span<const float> logits, std::span<const int32_t> ids, SoftmaxOver over,
                     std::span<float> weights);

}  // namespace moetap::plugin
