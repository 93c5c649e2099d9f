#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <cstdint>

namespace moetap::benchmarks {

/// How a block computes its experts. Both ways compute only the experts that some token chose.
enum class ExpertLayout {
  kLoop,       // stacked parameters, one loop over the experts: a small graph (prim::Loop)
  kSubmodules  // one module an expert, called in turn: the graph holds the operators of every expert
};

/// A decoder in the proportions of Phi-3.5-MoE (16 experts, top-2, intermediate / hidden = 1.5625, 4 query heads a
/// key-value head), at a quarter of its width.
struct MoeModelSize {
  int64_t vocabulary = 32000;
  int64_t hidden = 1024;
  int64_t num_layers = 8;
  int64_t num_heads = 16;
  int64_t num_key_value_heads = 4;
  int64_t num_experts = 16;
  int64_t top_k = 2;
  int64_t intermediate = 1600;
  ExpertLayout experts = ExpertLayout::kLoop;
};

/// A float32 decoder with random weights, compiled from TorchScript text, in eval mode:
///
///     forward(input_ids: int64 [B, S], attention_mask: int64 [B, S], 0 = padding) -> logits of the last tokens [B, V]
///
/// Layers are pre-norm: rotary grouped-query attention (scaled_dot_product_attention), then a softmax router with
/// renormalised top-k weights and SwiGLU experts, each on the tokens that chose it. The layers share one class type, as
/// in a scripted model. Routers are named "layers.I.mlp.gate".
torch::jit::Module make_moe_model(const MoeModelSize& size);

struct MoeModelInput {
  at::Tensor input_ids;       // int64 [B, S]
  at::Tensor attention_mask;  // int64 [B, S], all ones
};

MoeModelInput make_moe_input(const MoeModelSize& size, int64_t batch, int64_t sequence);

}  // namespace moetap::benchmarks
