#include "plugin/journal/computed_slots.h"

#include <c10/util/SmallVector.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/numbers/vector_math.h"
#include "analysis/routers/host_planes.h"

namespace moetap::plugin {
namespace {

constexpr float kNoLogit = -std::numeric_limits<float>::infinity();

template <typename Real>
void convert(const analysis::HostRouterCall& call, std::vector<float>& converted) {
  converted.resize(static_cast<size_t>(call.num_tokens * call.num_experts));
  for (int64_t token = 0; token < call.num_tokens; ++token) {
    std::copy_n(static_cast<const Real*>(values_of(call.logits, token)), call.num_experts,
                converted.begin() + token * call.num_experts);
  }
}

}  // namespace

std::optional<CallLogits> CallLogits::of(const analysis::HostRouterCall& call) {
  if (!call.logits.defined() || call.logits.dtype == c10::ScalarType::Double) return std::nullopt;
  CallLogits logits(call);
  if (call.logits.dtype == c10::ScalarType::Half) convert<c10::Half>(call, logits.converted_);
  if (call.logits.dtype == c10::ScalarType::BFloat16) convert<c10::BFloat16>(call, logits.converted_);
  return logits;
}

std::span<const float> CallLogits::of_token(int64_t token) const {
  const auto number = static_cast<size_t>(call_.num_experts);
  if (!converted_.empty()) return std::span(converted_).subspan(static_cast<size_t>(token) * number, number);
  return {static_cast<const float*>(values_of(call_.logits, token)), number};
}

std::vector<int32_t> largest_logits(std::span<const float> of_token, int64_t top_k) {
  std::vector<float> logits(of_token.begin(), of_token.end());
  std::vector<int32_t> ids;
  for (int64_t slot = 0; slot < top_k; ++slot) {
    float largest = kNoLogit;
    int32_t id = -1;
    for (size_t expert = 0; expert < logits.size(); ++expert) {
      if (logits[expert] > largest) {
        largest = logits[expert];
        id = static_cast<int32_t>(expert);
      }
    }
    if (id >= 0) logits[static_cast<size_t>(id)] = kNoLogit;
    ids.push_back(id);
  }
  return ids;
}

bool are_largest(std::span<const float> logits, std::span<const int32_t> ids) {
  if (ids.empty()) return true;
  const bool is_full = std::all_of(ids.begin(), ids.end(), [](int32_t id) { return id >= 0; });
  if (!is_full) return std::ranges::equal(largest_logits(logits, static_cast<int64_t>(ids.size())), ids);
  const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  for (size_t slot = 0; slot < ids.size(); ++slot) {
    if (!(logit(ids[slot]) > kNoLogit)) return false;
    if (slot == 0) continue;
    const float before = logit(ids[slot - 1]), own = logit(ids[slot]);
    if (!(before > own || (before == own && ids[slot - 1] < ids[slot]))) return false;
  }
  // They are in order: so they are the first ones if no others stand before the last.
  const float last = logit(ids.back());
  size_t num_before = 0;
  for (size_t expert = 0; expert < logits.size(); ++expert) {
    num_before += logits[expert] > last || (logits[expert] == last && static_cast<int32_t>(expert) < ids.back());
  }
  return num_before == ids.size() - 1;
}

bool compute_weights(std::span<const float> logits, std::span<const int32_t> ids, SoftmaxOver over,
                     std::span<float> weights) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  if (!std::isfinite(largest)) return false;
  const auto power = [&](float logit) {
    return analysis::exp_nonpositive(static_cast<double>(logit) - static_cast<double>(largest));
  };
  c10::SmallVector<double, 16> powers;
  double sum = 0;
  for (size_t slot = 0; slot < weights.size(); ++slot) {
    if (ids[slot] < 0) return false;
    powers.push_back(power(logits[static_cast<size_t>(ids[slot])]));
    if (over == SoftmaxOver::kSlots) sum += powers.back();
  }
  if (over == SoftmaxOver::kAllExperts) {
    for (const float logit : logits) sum += power(logit);
  }
  for (size_t slot = 0; slot < weights.size(); ++slot) weights[slot] = static_cast<float>(powers[slot] / sum);
  return true;
}

}  // namespace moetap::plugin
