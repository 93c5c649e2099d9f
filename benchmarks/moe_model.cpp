#include "benchmarks/moe_model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace moetap::benchmarks {
namespace jit = torch::jit;

namespace {

constexpr double kRotaryBase = 10000;

// @name@ stands for a size: TorchScript has no constants of its own.
constexpr const char* kAttention = R"(
def heads(self, x: Tensor, num_heads: int) -> Tensor:
    return x.view(x.size(0), x.size(1), num_heads, @head@).transpose(1, 2)

def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = torch.chunk(x, 2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin

def forward(self, x: Tensor, allowed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    query = self.rotate(self.heads(torch.linear(x, self.q_proj.weight), @heads@), cos, sin)
    key = self.rotate(self.heads(torch.linear(x, self.k_proj.weight), @key_value_heads@), cos, sin)
    value = self.heads(torch.linear(x, self.v_proj.weight), @key_value_heads@)
    mixed = torch.scaled_dot_product_attention(query, key, value, allowed, 0.0, False, scale=None, enable_gqa=True)
    return torch.linear(mixed.transpose(1, 2).reshape(x.size(0), x.size(1), @hidden@), self.o_proj.weight)
)";

constexpr const char* kRoute = R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, @hidden@)
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    weights, ids = torch.topk(scores, @top_k@, -1)
    weights = weights / weights.sum(-1, keepdim=True)
    return self.mix(h, ids, weights).view_as(x)
)";

constexpr const char* kMixInLoop = R"(
def mix(self, h: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    for e in range(@experts@):
        rows, slots = torch.where(ids == e)
        gate, up = torch.chunk(torch.linear(h.index_select(0, rows), self.gate_up_proj[e]), 2, -1)
        made = torch.linear(torch.silu(gate) * up, self.down_proj[e])
        out.index_add_(0, rows, made * weights[rows, slots].unsqueeze(-1))
    return out
)";

constexpr const char* kMixWithSubmodule = R"(
    rows, slots = torch.where(ids == {0})
    made = getattr(self.experts, "{0}").forward(h.index_select(0, rows))
    out.index_add_(0, rows, made * weights[rows, slots].unsqueeze(-1))
)";

constexpr const char* kExpert = R"(
def forward(self, h: Tensor) -> Tensor:
    gate, up = torch.chunk(torch.linear(h, self.gate_up_proj.weight), 2, -1)
    return torch.linear(torch.silu(gate) * up, self.down_proj.weight)
)";

constexpr const char* kLayer = R"(
def forward(self, x: Tensor, allowed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x = x + self.self_attn.forward(torch.rms_norm(x, [@hidden@], self.input_layernorm.weight, 1e-6), allowed, cos, sin)
    return x + self.mlp.forward(torch.rms_norm(x, [@hidden@], self.post_attention_layernorm.weight, 1e-6))
)";

constexpr const char* kBeforeLayers = R"(
def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    places = torch.arange(input_ids.size(1))
    causal = places.unsqueeze(0) <= places.unsqueeze(1)
    allowed = causal.unsqueeze(0) & (attention_mask != 0).unsqueeze(1)
    allowed = allowed.unsqueeze(1)
    angles = places.unsqueeze(1) * self.rotary.frequencies.unsqueeze(0)
    angles = torch.cat([angles, angles], -1)
    cos, sin = torch.cos(angles), torch.sin(angles)
    x = torch.embedding(self.embed_tokens.weight, input_ids)
)";

constexpr const char* kAfterLayers = R"(
    x = torch.rms_norm(x[:, -1], [@hidden@], self.norm.weight, 1e-6)
    return torch.linear(x, self.lm_head.weight)
)";

std::string replace_all(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string with_sizes(std::string code, const MoeModelSize& size) {
  const std::pair<const char*, int64_t> sizes[] = {
      {"@hidden@", size.hidden},       {"@head@", size.hidden / size.num_heads},
      {"@heads@", size.num_heads},     {"@key_value_heads@", size.num_key_value_heads},
      {"@experts@", size.num_experts}, {"@top_k@", size.top_k}};
  for (const auto& [name, value] : sizes) code = replace_all(std::move(code), name, std::to_string(value));
  return code;
}

using Submodules = std::vector<std::pair<std::string, jit::Module>>;

jit::Module make_module(const std::string& type, const Submodules& submodules, const std::string& code = "") {
  jit::Module module(type);
  module.register_attribute("training", c10::BoolType::get(), false);
  for (const auto& [name, submodule] : submodules) module.register_module(name, submodule);
  if (!code.empty()) module.define(code);
  return module;
}

jit::Module with_weight(const std::string& type, at::Tensor weight, const char* name = "weight") {
  jit::Module module = make_module(type, {});
  module.register_parameter(name, std::move(weight), /*is_buffer=*/false);
  return module;
}

// Weights that keep the variance of their input: the routers then see hidden states like those of a trained model, and
// choose different experts for different tokens.
at::Tensor projection(at::IntArrayRef sizes) {
  return at::randn(sizes).div_(std::sqrt(static_cast<double>(sizes.back())));
}

jit::Module make_attention(const MoeModelSize& size) {
  const int64_t key_value = size.hidden / size.num_heads * size.num_key_value_heads;
  return make_module("Attention",
                     {{"q_proj", with_weight("QProjection", projection({size.hidden, size.hidden}))},
                      {"k_proj", with_weight("KProjection", projection({key_value, size.hidden}))},
                      {"v_proj", with_weight("VProjection", projection({key_value, size.hidden}))},
                      {"o_proj", with_weight("OProjection", projection({size.hidden, size.hidden}))}},
                     with_sizes(kAttention, size));
}

jit::Module make_experts(const MoeModelSize& size) {
  const auto expert =
      make_module("Expert",
                  {{"gate_up_proj", with_weight("GateUpProjection", projection({2 * size.intermediate, size.hidden}))},
                   {"down_proj", with_weight("DownProjection", projection({size.hidden, size.intermediate}))}},
                  kExpert);
  Submodules experts;
  for (int64_t e = 0; e < size.num_experts; ++e) experts.emplace_back(std::to_string(e), expert.deepcopy());
  return make_module("Experts", experts);
}

jit::Module make_block(const MoeModelSize& size) {
  const auto gate = with_weight("Router", projection({size.num_experts, size.hidden}));
  if (size.experts == ExpertLayout::kSubmodules) {
    std::string mix =
        "\ndef mix(self, h: Tensor, ids: Tensor, weights: Tensor) -> Tensor:\n"
        "    out = torch.zeros_like(h)";
    for (int64_t e = 0; e < size.num_experts; ++e) mix += fmt::format(fmt::runtime(kMixWithSubmodule), e);
    return make_module("SparseMoeBlock", {{"gate", gate}, {"experts", make_experts(size)}},
                       mix + "    return out\n" + with_sizes(kRoute, size));
  }
  jit::Module block = make_module("SparseMoeBlock", {{"gate", gate}});
  block.register_parameter("gate_up_proj", projection({size.num_experts, 2 * size.intermediate, size.hidden}), false);
  block.register_parameter("down_proj", projection({size.num_experts, size.hidden, size.intermediate}), false);
  block.define(with_sizes(std::string(kMixInLoop) + kRoute, size));
  return block;
}

jit::Module make_layer(const MoeModelSize& size) {
  return make_module("DecoderLayer",
                     {{"input_layernorm", with_weight("Norm", at::ones({size.hidden}))},
                      {"self_attn", make_attention(size)},
                      {"post_attention_layernorm", with_weight("Norm", at::ones({size.hidden}))},
                      {"mlp", make_block(size)}},
                     with_sizes(kLayer, size));
}

// Another layer of the same type, with weights of its own.
jit::Module another_layer(const jit::Module& layer) {
  jit::Module other = layer.deepcopy();
  for (at::Tensor parameter : other.parameters()) {
    if (parameter.dim() > 1) parameter.normal_(0, 1 / std::sqrt(static_cast<double>(parameter.size(-1))));
  }
  return other;
}

}  // namespace

jit::Module make_moe_model(const MoeModelSize& size) {
  at::NoGradGuard no_grad;
  at::manual_seed(0);
  Submodules layers = {{"0", make_layer(size)}};
  for (int64_t i = 1; i < size.num_layers; ++i) {
    layers.emplace_back(std::to_string(i), another_layer(layers.front().second));
  }
  std::string code = kBeforeLayers;
  for (int64_t i = 0; i < size.num_layers; ++i) {
    code += fmt::format("    x = getattr(self.layers, \"{}\").forward(x, allowed, cos, sin)\n", i);
  }
  const int64_t half_head = size.hidden / size.num_heads / 2;
  const auto frequencies = at::pow(kRotaryBase, at::arange(half_head).to(at::kFloat) / -half_head);
  return make_module("MoeModel",
                     {{"embed_tokens", with_weight("Embedding", at::randn({size.vocabulary, size.hidden}))},
                      {"rotary", with_weight("Rotary", frequencies, "frequencies")},
                      {"layers", make_module("Layers", layers)},
                      {"norm", with_weight("Norm", at::ones({size.hidden}))},
                      {"lm_head", with_weight("Head", projection({size.vocabulary, size.hidden}))}},
                     code + with_sizes(kAfterLayers, size));
}

MoeModelInput make_moe_input(const MoeModelSize& size, int64_t batch, int64_t sequence) {
  at::manual_seed(1);
  return {at::randint(size.vocabulary, {batch, sequence}, at::kLong), at::ones({batch, sequence}, at::kLong)};
}

}  // namespace moetap::benchmarks
