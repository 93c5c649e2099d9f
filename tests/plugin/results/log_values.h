#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>

#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {

/// The layers of a log entry, by the keys that LibMoE's readers know.
inline nlohmann::json vision(const nlohmann::json& entry) {
  return entry.at("logs_metrics_vision").at(0).at(0);
}

/// Far enough from each other that the top-k has a clear order.
inline at::Tensor random_logits(int64_t seed, at::IntArrayRef sizes) {
  return seeded_logits(seed, sizes) * 2;
}

}  // namespace moetap::plugin
