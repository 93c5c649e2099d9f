#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/generated/variable_factories.h>
#include <torch/csrc/jit/api/module.h>

namespace moetap::plugin {

inline constexpr int64_t kMoeWidth = 8;
inline constexpr int64_t kMoeExperts = 4;

/// One MoE layer with linear experts behind an embedding: softmax, top-2, renormalised. Which experts a token gets
/// depends on its id alone. forward(input_ids [B, S], attention_mask [B, S]) -> [B, S, 8].
inline torch::jit::Module scripted_moe(int64_t vocabulary = 16, uint64_t seed = 7) {
  at::manual_seed(seed);
  torch::jit::Module gate("Gate");
  gate.register_parameter("weight", at::randn({kMoeExperts, kMoeWidth}), /*is_buffer=*/false);
  gate.define(R"(
    def forward(self, x):
        logits = torch.linear(x, self.weight)
        weights, selected = torch.topk(torch.softmax(logits, -1), 2, -1)
        weights = weights / torch.sum(weights, -1, True)
        return weights, selected
  )");
  torch::jit::Module model("Model");
  model.register_parameter("embedding", at::randn({vocabulary, kMoeWidth}), /*is_buffer=*/false);
  model.register_parameter("experts", at::randn({kMoeExperts, kMoeWidth, kMoeWidth}), /*is_buffer=*/false);
  model.register_module("gate", gate);
  model.define(R"(
    def forward(self, input_ids, attention_mask):
        x = torch.embedding(self.embedding, input_ids)
        weights, selected = self.gate.forward(x)
        experts = torch.index_select(self.experts, 0, selected.reshape(-1))
        each = torch.repeat_interleave(x.reshape(-1, 8), 2, 0)
        outputs = torch.bmm(experts, each.unsqueeze(-1)).reshape(x.size(0), x.size(1), 2, 8)
        return x + torch.sum(outputs * weights.unsqueeze(-1), -2)
  )");
  return model;
}

/// int64 [vocabulary, 2]: the experts that each token id gets.
inline at::Tensor experts_of_tokens(const torch::jit::Module& model) {
  const at::NoGradGuard no_gradients;
  const auto logits =
      at::linear(model.attr("embedding").toTensor(), model.attr("gate").toModule().attr("weight").toTensor());
  return std::get<1>(logits.softmax(-1).topk(2, -1));
}

}  // namespace moetap::plugin
