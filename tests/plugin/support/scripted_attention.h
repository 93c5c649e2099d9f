#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/generated/variable_factories.h>
#include <torch/csrc/jit/api/module.h>

#include <string>

namespace moetap::plugin {

// Scripted transformer blocks of width 8: 2 heads of size 4, 4 linear experts of which 2 are taken. What an attention
// gives is rounded, and all weights are small multiples of powers of two: hidden states, scores and logits are exact,
// so that a sample's do not depend on the samples beside it.

inline constexpr int64_t kScriptedHeads = 2;
inline constexpr int64_t kScriptedVocabulary = 16;

inline at::Tensor exact_values(at::IntArrayRef sizes, int64_t largest, double step) {
  return at::randint(-largest, largest + 1, sizes, at::kFloat) * step;
}

/// forward(x [B, S, 8], attention_mask [B, P + S], past [B, P, 8]) -> [B, S, 8]. `fused`: by LibTorch's operator; else
/// the model makes the probabilities itself.
inline torch::jit::Module scripted_attention(bool fused) {
  torch::jit::Module attention("Attention");
  for (const char* name : {"query", "key", "value"}) {
    attention.register_parameter(name, exact_values({8, 8}, 1, 0.5), /*is_buffer=*/false);
  }
  const std::string begin = R"(
    def forward(self, x, attention_mask, past):
        whole = torch.cat([past, x], 1)
        batch, length, total = x.size(0), x.size(1), whole.size(1)
        q = torch.linear(x, self.query).reshape(batch, length, 2, 4).transpose(1, 2)
        k = torch.linear(whole, self.key).reshape(batch, total, 2, 4).transpose(1, 2)
        v = torch.linear(whole, self.value).reshape(batch, total, 2, 4).transpose(1, 2)
        seen = torch.tril(torch.ones([length, total]), total - length)
        keep = torch.gt(attention_mask.reshape(batch, 1, 1, total) * seen, 0)
)";
  const std::string eager = R"(
        scores = torch.matmul(q, k.transpose(2, 3)) * 0.5
        scores = torch.masked_fill(scores, torch.logical_not(keep), -10000.0)
        out = torch.matmul(torch.softmax(scores, -1), v)
)";
  const std::string sdpa = R"(
        out = torch.scaled_dot_product_attention(q, k, v, keep)
)";
  const std::string end = R"(
        return torch.round(out.transpose(1, 2).reshape(batch, length, 8) * 4) / 4
)";
  attention.define(begin + (fused ? sdpa : eager) + end);
  return attention;
}

/// forward(x, attention_mask, past) -> [B, S, 8]
inline torch::jit::Module scripted_block(bool fused) {
  torch::jit::Module gate("Gate");
  gate.register_parameter("weight", exact_values({4, 8}, 4, 0.25), /*is_buffer=*/false);
  gate.define(R"(
    def forward(self, x):
        weights, selected = torch.topk(torch.softmax(torch.linear(x, self.weight), -1), 2, -1)
        return weights / torch.sum(weights, -1, True), selected
  )");
  torch::jit::Module block("Block");
  block.register_parameter("experts", exact_values({4, 8, 8}, 1, 0.25), /*is_buffer=*/false);
  block.register_module("attn", scripted_attention(fused));
  block.register_module("gate", gate);
  block.define(R"(
    def forward(self, x, attention_mask, past):
        x = x + self.attn.forward(x, attention_mask, past)
        weights, selected = self.gate.forward(x)
        experts = torch.index_select(self.experts, 0, selected.reshape(-1))
        each = torch.repeat_interleave(x.reshape(-1, 8), 2, 0)
        outputs = torch.bmm(experts, each.unsqueeze(-1)).reshape(x.size(0), x.size(1), 2, 8)
        return x + torch.round(torch.sum(outputs * weights.unsqueeze(-1), -2) * 4) / 4
  )");
  return block;
}

/// A model with an embedding and the blocks `first` (eager) and `second` (fused). `source` defines its methods.
inline torch::jit::Module scripted_transformer(const std::string& source) {
  at::manual_seed(7);
  torch::jit::Module model("Model");
  model.register_parameter("embedding", exact_values({kScriptedVocabulary, 8}, 4, 0.25), /*is_buffer=*/false);
  model.register_module("first", scripted_block(/*fused=*/false));
  model.register_module("second", scripted_block(/*fused=*/true));
  model.define(source);
  return model;
}

/// forward(input_ids [B, S], attention_mask [B, S]) -> [B, S, 8]
inline torch::jit::Module scripted_transformer() {
  return scripted_transformer(R"(
    def forward(self, input_ids, attention_mask):
        x = torch.embedding(self.embedding, input_ids)
        nothing = torch.slice(x, 1, 0, 0)
        x = self.first.forward(x, attention_mask, nothing)
        return self.second.forward(x, attention_mask, nothing)
  )");
}

}  // namespace moetap::plugin
