#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/generated/variable_factories.h>
#include <torch/csrc/jit/api/module.h>

#include <string>

namespace moetap::plugin {

inline constexpr int64_t kVerifiedExperts = 6;

/// A model with one router: forward(input_ids [B, S], attention_mask [B, S]) -> [B, S, 8]. `attention`: an average over
/// the valid tokens of a sample comes in first. `block`: from `h` [T, 8] to `out` [T, 8], on lines that begin with
/// eight blanks.
inline torch::jit::Module verified_model(const std::string& block, bool attention = false) {
  at::manual_seed(3);
  torch::jit::Module model("Model");
  const auto parameter = [&](const char* name, at::IntArrayRef sizes) {
    model.register_parameter(name, at::randn(sizes), /*is_buffer=*/false);
  };
  parameter("embedding", {16, 8});
  parameter("gate", {kVerifiedExperts, 8});
  parameter("lora", {kVerifiedExperts, 8});
  parameter("experts", {kVerifiedExperts, 8, 8});
  const std::string mix = attention ? R"(
        kept = attention_mask.unsqueeze(-1).to(x.dtype)
        x = x + torch.sum(x * kept, 1, True) / torch.sum(kept, 1, True)
)"
                                    : "\n";
  model.define(R"(
    def forward(self, input_ids, attention_mask):
        x = torch.embedding(self.embedding, input_ids))" +
               mix + "        h = x.reshape(-1, 8)\n" + block + "        return x + out.reshape(x.size())\n");
  return model;
}

/// Two experts of six a token, weights normalised and scaled, experts' parameters looked up by ids. The selection reads
/// `total`, which is `plain` and `delta`.
inline constexpr const char* kSlots = R"(
        plain = torch.linear(h, self.gate)
        delta = torch.linear(h, self.lora)
        total = plain + delta
        unscaled, ids = torch.topk(torch.softmax(total, -1), 2, -1)
        normalised = unscaled / torch.sum(unscaled, -1, True)
        weights = normalised * 2.5
        chosen = torch.index_select(self.experts, 0, ids.reshape(-1))
        rows = torch.repeat_interleave(h, 2, 0)
        each = torch.bmm(rows.unsqueeze(1), chosen).reshape(-1, 2, 8)
        out = torch.sum(each * weights.unsqueeze(-1), 1)
)";

/// Weights over all experts, which run for all tokens. The selection reads `total`, whose worst experts are closed.
inline constexpr const char* kDense = R"(
        plain = torch.linear(h, self.gate)
        total = plain.masked_fill(plain < -4.0, -100.0)
        unscaled = torch.sigmoid(total)
        values, ids = torch.topk(unscaled, 2, -1)
        spread = torch.zeros_like(unscaled).scatter(-1, ids, values)
        weights = spread * 0.5
        out = torch.zeros_like(h)
        for e in range(6):
            out = out + weights[:, e].unsqueeze(-1) * torch.matmul(h, self.experts[e])
)";

/// One expert a token, by a mask of each expert.
inline constexpr const char* kTopOne = R"(
        plain = torch.linear(h, self.gate)
        total = plain / torch.norm(plain, 2, [-1], True)
        scores = torch.softmax(total, -1)
        unscaled, ids = torch.max(scores, -1)
        weights = unscaled * 3.0
        out = torch.zeros_like(h)
        for e in range(6):
            share = weights * (ids == e).to(h.dtype)
            out = out + share.unsqueeze(-1) * torch.matmul(h, self.experts[e])
)";

}  // namespace moetap::plugin
