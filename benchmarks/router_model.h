#pragma once

#include <torch/csrc/jit/api/module.h>

#include <cstdint>

namespace moetap::benchmarks {

struct RouterModelSize {
  int64_t num_layers = 4;
  int64_t num_experts = 8;
  int64_t top_k = 2;
  int64_t hidden = 32;
  int64_t vocabulary = 100;
};

/// A float32 model that does little besides routing, so that the cost of recording shows:
///
///     forward(input_ids: int64 [B, S]) -> hidden states [B, S, hidden]
///
/// A layer is a softmax router with renormalised top-k weights. Its experts only scale their input: one indexed product
/// a layer. Each layer has a class of its own, as in a traced model. Weights are random.
torch::jit::Module make_router_model(const RouterModelSize& size);

/// Different tokens each time, so that a journal is not unusually compact.
at::Tensor make_router_input(const RouterModelSize& size, int64_t batch, int64_t sequence);

}  // namespace moetap::benchmarks
