#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <string>

#include "hooks/graph/method_graph.h"
#include "hooks/routers/found_router.h"

namespace moetap::hooks {

/// Whether routers report what enters their projection.
enum class RouterInputs { kLeftOut, kReported };

/// What enters the projection of a router.
struct RouterInput {
  torch::jit::Value* value = nullptr;  // null: see `missing`
  torch::jit::Node* reader = nullptr;  // of `value`
  int64_t feature_dim = -1;            // of `value`, from the end; its other dimensions are the tokens'
  std::string missing;                 // why the graph does not tell it; "": `value` is it
};

/// Reads what enters the projection. It is told only where its tokens are those of the router's logits, in their order.
RouterInput router_input(const MethodGraph& graph, const FoundRouter& router);

}  // namespace moetap::hooks
