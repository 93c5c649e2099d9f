#include "moe_sources.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <torch/csrc/jit/frontend/resolver.h>

#include <stdexcept>

namespace moetap::hooks::testing {
namespace jit = torch::jit;

namespace {

// Names that TorchScript text of the tests may use beside `torch`.
struct TestResolver : jit::Resolver {
  std::shared_ptr<jit::SugaredValue> resolveValue(const std::string& name, jit::GraphFunction& function,
                                                  const jit::SourceRange& range) override {
    auto type = [&](at::ScalarType scalar) {
      return std::make_shared<jit::SimpleValue>(function.graph()->insertConstant(static_cast<int64_t>(scalar), range));
    };
    if (name == "float32") return type(at::kFloat);
    if (name == "boolean") return type(at::kBool);
    if (name == "torch") return std::make_shared<jit::BuiltinModule>("aten");
    if (name == "moetap") return std::make_shared<jit::BuiltinModule>("moetap");
    if (name == "fork") return jit::SpecialFormValue::create(jit::prim::fork);
    return nullptr;
  }
};

constexpr const char* kBlockForward = R"(
def forward(self, x: Tensor) -> Tensor:
    h = torch.layer_norm(x, [8]).view(-1, x.size(-1))
    ids, weights = self.route(h)
    return x + self.experts(h, ids, weights).view_as(x)
)";

at::Tensor flattened(const at::Tensor& tensor, int64_t expert_dim, int64_t num_tokens) {
  if (tensor.numel() == num_tokens) return tensor.reshape({num_tokens, 1});
  return tensor.movedim(expert_dim, -1).reshape({num_tokens, -1});
}

}  // namespace

const Combine kMaskEachExpert = {"MaskEachExpert", R"(
def experts(self, h: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    for e in range(6):
        share = (weights * (ids == e).to(weights.dtype)).sum(-1, keepdim=True)
        out = out + share * torch.matmul(h, self.expert_weights[e])
    return out
)"};

const Combine kIndexParameters = {"IndexParameters", R"(
def experts(self, h: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    chosen = self.expert_weights[ids.reshape(-1)]
    rows = h.repeat_interleave(ids.size(1), 0).unsqueeze(1)
    outputs = torch.bmm(rows, chosen).squeeze(1)
    return (outputs * weights.reshape(-1, 1)).view(h.size(0), ids.size(1), h.size(1)).sum(1)
)"};

const Combine kDispatchTokens = {"DispatchTokens", R"(
def experts(self, h: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    for e in range(6):
        rows, slots = torch.where(ids == e)
        outputs = torch.matmul(h[rows], self.expert_weights[e]) * weights[rows, slots].unsqueeze(-1)
        out.index_add_(0, rows, outputs)
    return out
)"};

const Combine kSortTokensByExpert = {"SortTokensByExpert", R"(
def experts(self, h: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    order = torch.argsort(ids.reshape(-1))
    rows = torch.div(order, ids.size(1), rounding_mode="floor")
    sorted_ids = ids.reshape(-1)[order]
    outputs = torch.bmm(h[rows].unsqueeze(1), self.expert_weights[sorted_ids]).squeeze(1)
    outputs = outputs * weights.reshape(-1)[order].unsqueeze(-1)
    return torch.zeros_like(h).index_add(0, rows, outputs)
)"};

jit::Module compile(const ModuleSource& source) {
  jit::Module module(source.type);
  module.register_attribute("training", c10::BoolType::get(), true);
  for (const auto& [name, tensor] : source.parameters) module.register_parameter(name, tensor, /*is_buffer=*/false);
  for (const auto& [name, tensor] : source.buffers) module.register_buffer(name, tensor);
  for (const auto& [name, value] : source.integers) module.register_attribute(name, c10::IntType::get(), value);
  for (const auto& [name, submodule] : source.modules) module.register_module(name, submodule);
  if (!source.code.empty()) module.define(source.code, std::make_shared<TestResolver>());
  return module;
}

jit::Module another_of(const jit::Module& module, uint64_t seed) {
  jit::Module other = module.deepcopy();
  at::NoGradGuard no_grad;
  for (at::Tensor parameter : other.parameters()) parameter.copy_(random_tensor(parameter.sizes(), seed++));
  return other;
}

at::Tensor random_tensor(at::IntArrayRef sizes, uint64_t seed) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions().dtype(at::kFloat));
}

at::Tensor random_input(uint64_t seed) {
  return random_tensor({kBatch, kSequence, kHidden}, seed);
}

jit::Module holder(const std::string& type, const at::Tensor& weight) {
  return compile({.type = type, .parameters = {{"weight", weight}}});
}

jit::Module folder(const std::string& type, const std::vector<std::pair<std::string, jit::Module>>& modules) {
  return compile({.type = type, .modules = modules});
}

jit::Module stacked(const std::vector<jit::Module>& mlps) {
  std::vector<std::pair<std::string, jit::Module>> layers;
  std::string code = "def forward(self, x: Tensor) -> Tensor:\n";
  for (size_t i = 0; i < mlps.size(); ++i) {
    const std::string place = std::to_string(i);
    layers.emplace_back(place, folder("Layer" + place, {{"mlp", mlps[i]}}));
    code += "    x = getattr(self.layers, \"" + place + "\").mlp.forward(x)\n";
  }
  code += "    return x\n";
  return compile({.type = "Model", .modules = {{"layers", folder("Layers", layers)}}, .code = code});
}

at::Tensor expert_weights(uint64_t seed) {
  return random_tensor({kExperts, kHidden, kHidden}, seed + 100) * 0.3;
}

ModuleSource block_source(const std::string& route, const Combine& combine, uint64_t seed) {
  return {.type = "Block",
          .parameters = {{"expert_weights", expert_weights(seed)}},
          .modules = {{"gate", holder("Gate", random_tensor({kExperts, kHidden}, seed))}},
          .code = route + combine.code + kBlockForward};
}

CanonicalReport canonical(const RouterReport& report, int64_t num_tokens) {
  CanonicalReport result;
  if (report.logits.defined()) result.logits = flattened(report.logits, report.expert_dim, num_tokens);
  if (report.scores.defined()) result.scores = flattened(report.scores, report.expert_dim, num_tokens);
  std::vector<at::Tensor> ids, weights;
  if (report.form != "expert_choice") {
    for (const auto& tensor : report.selected) ids.push_back(flattened(tensor, report.expert_dim, num_tokens));
    const size_t masks = report.form == "kept" ? 1 : 0;
    for (size_t i = 0; i + masks < report.weights.size(); ++i) {
      weights.push_back(flattened(report.weights[i], report.expert_dim, num_tokens));
    }
    result.ids = at::cat(ids, 1);
  }
  if (report.weights.empty()) return result;
  if (report.form == "slots") {
    result.weights = at::cat(weights, 1);
  } else if (report.form == "kept") {
    at::Tensor kept = report.weights.at(1);
    if (kept.numel() > num_tokens * report.logits.size(-1)) kept = kept.sum(-2);  // [.., slots, experts]
    result.weights = weights.at(0) * (flattened(kept, -1, num_tokens).gather(1, result.ids) != 0);
  } else if (report.form == "dense" || report.form == "variable") {
    std::vector<at::Tensor> gathered;
    for (size_t i = 0; i < weights.size(); ++i) {
      gathered.push_back(weights[i].gather(1, weights.size() == 1 ? result.ids : ids.at(i)));
    }
    result.weights = at::cat(gathered, 1);
    if (weights.size() == 1) {  // an expert that is named twice has one weight
      const at::Tensor same = result.ids.unsqueeze(2) == result.ids.unsqueeze(1);
      const at::Tensor named = (same & at::ones({same.size(1), same.size(1)}, at::kBool).tril(-1)).any(2);
      result.ids = result.ids.masked_fill(named, -1);
    }
    if (report.form == "variable") result.ids = result.ids.masked_fill(result.weights == 0, -1);
  } else if (report.form == "expert_choice") {  // [experts, tokens that each takes]
    const at::Tensor tokens = report.selected.at(0), place = at::where(tokens < 0, num_tokens, tokens);
    at::Tensor dense = at::zeros({tokens.size(0), num_tokens + 1});
    dense = dense.scatter(1, place, report.weights.at(0)).narrow(1, 0, num_tokens).t();
    result.weights = dense;
    result.ids = at::arange(dense.size(1)).expand_as(dense).masked_fill(dense == 0, -1);
  } else {
    throw std::invalid_argument("no layout is known of form " + report.form);
  }
  return result;
}

at::Tensor recombined(const at::Tensor& hidden, const at::Tensor& experts, const at::Tensor& ids,
                      const at::Tensor& weights) {
  at::Tensor out = at::zeros_like(hidden);
  for (int64_t token = 0; token < ids.size(0); ++token) {
    for (int64_t slot = 0; slot < ids.size(1); ++slot) {
      const auto id = ids[token][slot].item<int64_t>();
      if (id >= 0) out[token] += weights[token][slot] * at::matmul(hidden[token], experts[id]);
    }
  }
  return out;
}

at::Tensor call(const jit::Module& module, const std::vector<at::Tensor>& inputs, const std::string& method) {
  std::vector<c10::IValue> stack(inputs.begin(), inputs.end());
  return module.get_method(method)(std::move(stack)).toTensor();
}

std::string describe_nothing() {
  return "{}";
}

}  // namespace moetap::hooks::testing
