#pragma once

#include <c10/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <optional>

#include "analysis/numbers/token_kernels.h"
#include "analysis/routers/router_call.h"
#include "analysis/routers/router_sums_layout.h"
#include "analysis/routers/router_sums_values.h"

namespace moetap::analysis {

/// The dtypes of reals that a plane may have, in the order of RealFormat. The journal names them by their places here.
inline constexpr std::array kRealDtypes = {c10::ScalarType::Float, c10::ScalarType::Double, c10::ScalarType::Half,
                                           c10::ScalarType::BFloat16};

/// How reals of a dtype are stored; empty: a plane cannot have it.
constexpr std::optional<RealFormat> real_format(c10::ScalarType dtype) {
  for (size_t place = 0; place < kRealDtypes.size(); ++place) {
    if (kRealDtypes[place] == dtype) return static_cast<RealFormat>(place);
  }
  return std::nullopt;
}
static_assert(real_format(c10::ScalarType::Float) == RealFormat::kFloat &&
              real_format(c10::ScalarType::Double) == RealFormat::kDouble &&
              real_format(c10::ScalarType::Half) == RealFormat::kHalf &&
              real_format(c10::ScalarType::BFloat16) == RealFormat::kBFloat16);

/// A matrix in host memory, a token a row: row t begins at data + t * row_stride elements, its columns are neighbours.
struct HostPlane {
  const void* data = nullptr;  // null: the call does not have it
  // One of kRealDtypes; of ids Long or Int.
  c10::ScalarType dtype = c10::ScalarType::Float;
  int64_t row_stride = 0;

  bool defined() const { return data != nullptr; }
};

/// A router call in plain host memory: RouterCall and TokenRows without tensors. What the fields hold is said there.
struct HostRouterCall {
  int64_t num_tokens = 0, num_experts = 0, top_k = 0;
  HostPlane logits, probabilities, scores;  // [num_tokens, num_experts]
  HostPlane selected;                       // ids [num_tokens, top_k]
  HostPlane weights;                        // [num_tokens, top_k]
  bool sigmoid_scores = false;

  int64_t num_rows = 1;
  RowOrder order = RowOrder::kRowByRow;  // where `row` is null
  const int64_t* row = nullptr;          // [num_tokens]
  const bool* valid = nullptr;           // [num_tokens]; null: all

  bool has_margins() const { return analysis::has_margins(weights.defined(), top_k); }
};

/// Sums in plain host memory, normalized: see Note [Layout of router sums].
struct HostSums {
  int64_t* words = nullptr;
  RouterSumsLayout layout;  // of the call's experts, K and rows
  bool has_pairs = false;   // the table of pairs follows the rows
};

/// The memory of sums on the host, which must be normalized.
inline HostSums host_sums(RouterSums& sums) {
  return {sums.words.mutable_data_ptr<int64_t>(), sums.layout(), sums.has_pairs};
}

/// As TokenOutputs; null: not asked for.
struct HostTokenOutputs {
  int32_t* selected = nullptr;    // [num_tokens, top_k]
  float* weights = nullptr;       // [num_tokens, top_k]
  int32_t* first_slot = nullptr;  // [num_tokens]
  float* margins = nullptr;       // [num_tokens]
};

/// As TransitionFrom.
struct HostTransition {
  const int32_t* first_slot = nullptr;  // [num_tokens], of the router before; null: not asked for
  int64_t num_experts_before = 0;
  int64_t* counts = nullptr;  // [num_experts_before, num_experts]
};

/// `observe_into` of token_outputs.h for plain memory, with the same bits, on the calling thread alone. Needs no tensor
/// and, once a thread has measured a call of this size, no allocation. Thread-safe; the sums belong to the caller and
/// are normalized afterwards. Checks nothing: the memory must be as described. At most kMaxTermsPerCall tokens, and as
/// many selections. Throws c10::Error if a sum is beyond 5.7e17.
void observe_host(const HostRouterCall& call, const HostSums& sums, const HostTokenOutputs& outputs = {},
                  const HostTransition& transition = {});

/// `normalize` of router_sums.h for plain memory.
void normalize_words(const RouterSumsLayout& layout, int64_t* words);

}  // namespace moetap::analysis
