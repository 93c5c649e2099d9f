#pragma once

#include <torch/csrc/jit/api/module.h>

#include "hooks/graph/method_graph.h"

namespace moetap::hooks {

/// Gives a method of a twin the edited copy of its graph. The twin has never run: its methods have no cached executors.
void replace_graph(const MethodGraph& edited);

/// Drops the optimised copies that LibTorch kept of the graphs of `twin` before they were replaced.
void forget_optimised_graphs(const torch::jit::Module& twin);

}  // namespace moetap::hooks
