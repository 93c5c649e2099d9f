#pragma once

#include <optional>

#include "hooks/attention/attention_axes.h"
#include "hooks/attention/found_attention.h"

namespace moetap::hooks {

/// True for an operator that makes scores of query and key, takes their softmax and applies it to values.
bool is_fused_attention(const torch::jit::Node& node);

/// The values of a fused operator; the layout is empty if it cannot be told. Empty if the operator is of a kind that is
/// not followed.
std::optional<AttentionArm> fused_arm(torch::jit::Node* node, AttentionAxes& axes);

}  // namespace moetap::hooks
