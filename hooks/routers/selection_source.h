#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace moetap::hooks {

/// A pick and the ids of a router that depend on no other pick.
struct PickOfIds {
  const torch::jit::Node* pick = nullptr;
  std::vector<torch::jit::Value*> ids;
  int64_t expert_dim = -1;      // of what the pick reads
  std::optional<int64_t> rank;  // of what the pick reads, where it is known
};

/// The pick whose indices the ids are, under the same conditions; null for others.
const torch::jit::Node* pick_of_ids(const torch::jit::Value* ids);

/// What the pick reads, if it takes the largest along the experts and the ids are its indices: cast, reshaped or cut
/// off behind the first slots, and nothing else. Then the ids are the best of that value. Null where that is not sure.
torch::jit::Value* selection_source(const PickOfIds& of);

}  // namespace moetap::hooks
