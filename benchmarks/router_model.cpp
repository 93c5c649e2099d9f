#include "benchmarks/router_model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <string>

namespace moetap::benchmarks {
namespace jit = torch::jit;

namespace {

constexpr const char* kBlock = R"(
def forward(self, x: Tensor) -> Tensor:
    scores = torch.softmax(torch.linear(x, self.gate), -1)
    weights, ids = torch.topk(scores, {}, -1)
    weights = weights / weights.sum(-1, keepdim=True)
    return x + (x.unsqueeze(-2) * self.experts[ids] * weights.unsqueeze(-1)).sum(-2)
)";

}  // namespace

jit::Module make_router_model(const RouterModelSize& size) {
  at::NoGradGuard no_grad;
  jit::Module layers("Layers");
  std::string code =
      "def forward(self, input_ids: Tensor) -> Tensor:\n    x = torch.embedding(self.embedding, input_ids)\n";
  for (int64_t i = 0; i < size.num_layers; ++i) {
    jit::Module block("Block");
    // Small enough that hidden states keep their size over a hundred layers.
    const double inputs = static_cast<double>(size.hidden);
    block.register_parameter("gate", at::randn({size.num_experts, size.hidden}).div_(std::sqrt(inputs)), false);
    block.register_parameter("experts", at::randn({size.num_experts, size.hidden}).mul_(0.1), false);
    block.define(fmt::format(fmt::runtime(kBlock), size.top_k));
    layers.register_module(std::to_string(i), block);
    code += fmt::format("    x = getattr(self.layers, \"{}\").forward(x)\n", i);
  }
  jit::Module model("RouterModel");
  model.register_parameter("embedding", at::randn({size.vocabulary, size.hidden}), false);
  model.register_module("layers", layers);
  model.define(code + "    return x\n");
  return model;
}

at::Tensor make_router_input(const RouterModelSize& size, int64_t batch, int64_t sequence) {
  return at::randint(size.vocabulary, {batch, sequence}, at::kLong);
}

}  // namespace moetap::benchmarks
