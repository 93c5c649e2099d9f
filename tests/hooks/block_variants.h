#pragma once

#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "moe_sources.h"

namespace moetap::hooks::testing {

/// A block that routes layer-normalised tokens [T, kHidden] and adds to its input what the experts gave.
struct BlockVariant {
  std::string name;
  std::string code;  // of `forward`, from `h`, the normalised tokens, on; methods may follow
  std::optional<int64_t> top_k = kTopK;
  std::optional<int64_t> num_experts = kExperts;
  bool refused = false;  // no hook is found, and a reason is given
};

void PrintTo(const BlockVariant& variant, std::ostream* stream);  // for GoogleTest

ModuleSource variant_source(const BlockVariant& variant);

std::vector<BlockVariant> block_variants();

/// What is done to ids and weights between the pick and the experts.
std::vector<BlockVariant> weight_variants();

/// Ids or weights that are put into another order or computed with. Each is right, or refused by name.
std::vector<BlockVariant> id_variants();

/// Experts' queues, and what is done to slots on the way there.
std::vector<BlockVariant> queue_variants();

}  // namespace moetap::hooks::testing
