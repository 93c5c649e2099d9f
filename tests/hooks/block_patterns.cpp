// Routers that do not give ids and weights [T, K]: each block combines the experts' outputs in its own way.
#include <ATen/ATen.h>

#include <limits>
#include <ostream>

#include "router_patterns.h"

namespace moetap::hooks::testing {
namespace jit = torch::jit;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kCapacity = 3;  // small enough that tokens are dropped

ModuleSource block(const std::string& code, std::vector<std::pair<std::string, at::Tensor>> buffers = {}) {
  return {.type = "Block",
          .parameters = {{"expert_weights", expert_weights()}},
          .buffers = std::move(buffers),
          .modules = {{"gate", holder("Gate", random_tensor({kExperts, kHidden}, 7))}},
          .code = code};
}

at::Tensor logits_of(const jit::Module& block, const at::Tensor& hidden) {
  return at::linear(hidden, tensor_at(block, "gate.weight"));
}

// True where a token is among the first kCapacity of those that chose its expert.
at::Tensor has_place(const at::Tensor& chosen, const at::Tensor& taken_before) {
  const at::Tensor place = (chosen.cumsum(0) + taken_before) * chosen;
  return place.sum(-1) <= kCapacity;
}

RouterPattern a2c() {
  RouterPattern pattern{.name = "A2c", .scoring = "softmax"};
  pattern.input_sizes = {2, kHidden, 3, 4};
  pattern.hidden = [](const at::Tensor& input) { return input.permute({0, 2, 3, 1}).reshape({-1, kHidden}); };
  pattern.source = [] {
    ModuleSource source = block(R"(
def forward(self, x: Tensor) -> Tensor:
    probabilities = torch.softmax(torch.conv2d(x, self.gate.weight), 1)
    weights, ids = torch.topk(probabilities, 2, 1)
    weights = weights / weights.sum(1, keepdim=True)
    out = torch.zeros_like(x)
    for e in range(6):
        share = (weights * (ids == e).to(weights.dtype)).sum(1, keepdim=True)
        out = out + share * torch.conv2d(x, self.expert_weights[e].t().unsqueeze(-1).unsqueeze(-1))
    return x + out
)");
    source.modules = {{"gate", holder("Gate", random_tensor({kExperts, kHidden, 1, 1}, 7))}};
    return source;
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor logits = at::linear(hidden, tensor_at(own, "gate.weight").view({kExperts, kHidden}));
    auto [weights, ids] = logits.softmax(-1).topk(kTopK, -1);
    return ExpectedRouting{logits, ids, weights / weights.sum(-1, true)};
  };
  return pattern;
}

RouterPattern b2() {
  RouterPattern pattern{.name = "B2", .scoring = "softmax_topk"};
  pattern.source = [] {
    return block(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    clean = torch.mm(h, self.gate.weight.t())
    if self.training:
        logits = clean + torch.randn_like(clean) * 0.1
    else:
        logits = clean
    top, order = torch.topk(logits, 3, 1)
    ids = order[:, :2]
    gates = torch.zeros_like(logits).scatter(1, ids, torch.softmax(top[:, :2], 1))
    outputs = torch.einsum("td,edf->tef", [h, self.expert_weights])
    return x + torch.einsum("te,tef->tf", [gates, outputs]).view_as(x)
)");
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor logits = logits_of(own, hidden);
    const auto [values, ids] = logits.topk(kTopK, -1);
    return ExpectedRouting{logits, ids, values.softmax(-1)};
  };
  return pattern;
}

RouterPattern c2() {
  RouterPattern pattern{.name = "C2", .scoring = "sigmoid_topk"};
  pattern.source = [] {
    return block(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    logits = torch.linear(h, self.gate.weight)
    values, ids = torch.topk(logits, 2, 1)
    scores = torch.sigmoid(torch.full_like(logits, float("-inf")).scatter_(1, ids, values).to(float32)).to(h.dtype)
    routed = h.repeat([6, 1]) * scores.transpose(0, 1).reshape([-1, 1])
    outputs = torch.bmm(routed.view(6, -1, h.size(1)), self.expert_weights)
    return x + outputs.sum(0).view_as(x)
)");
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor logits = logits_of(own, hidden);
    const auto [values, ids] = logits.topk(kTopK, -1);
    return ExpectedRouting{logits, ids, values.sigmoid()};
  };
  return pattern;
}

// One projection gives the logits of six routed and two shared experts; one softmax gives the weights of both.
RouterPattern d4() {
  RouterPattern pattern{.name = "D4", .scoring = "sigmoid_bias", .recombines = false};
  pattern.source = [] {
    ModuleSource source = block(
        R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    all_logits = torch.linear(h, self.gate.weight)
    scores = torch.sigmoid(all_logits)[:, :6]
    ids = torch.topk(scores + self.correction_bias, 2, -1)[1]
    routed = torch.gather(all_logits[:, :6], -1, ids)
    together = torch.log_sigmoid(torch.cat([routed, all_logits[:, 6:]], -1))
    shares = torch.exp(together - torch.logsumexp(together, [-1], True)) * 2.0
    weights = shares[:, :2]
    shared = shares[:, 2:].sum(-1, keepdim=True) * torch.matmul(h, self.shared_weight)
    chosen = self.expert_weights[ids]
    outputs = torch.matmul(h.unsqueeze(1).unsqueeze(1), chosen).squeeze(2)
    return x + ((outputs * weights.unsqueeze(-1)).sum(1) + shared).view_as(x)
)",
        {{"correction_bias", random_tensor({kExperts}, 31)}, {"shared_weight", random_tensor({kHidden, kHidden}, 32)}});
    source.modules = {{"gate", holder("Gate", random_tensor({kExperts + 2, kHidden}, 7))}};
    return source;
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor all = logits_of(own, hidden);
    const at::Tensor logits = all.narrow(1, 0, kExperts);
    const at::Tensor ids = std::get<1>((logits.sigmoid() + tensor_at(own, "correction_bias")).topk(kTopK, -1));
    const at::Tensor scores = at::cat({logits.gather(1, ids), all.narrow(1, kExperts, 2)}, 1).sigmoid();
    return ExpectedRouting{logits, ids, (scores / scores.sum(-1, true) * 2.).narrow(1, 0, kTopK)};
  };
  return pattern;
}

// The last class skips the experts: its token gets id 0 with weight 0.
RouterPattern g2() {
  RouterPattern pattern{.name = "G2", .scoring = "softmax_bias", .num_experts = kExperts + 1, .top_k = 1};
  pattern.source = [] {
    ModuleSource source = block(std::string(R"(
def forward(self, x: Tensor) -> Tensor:
    state = torch.gelu(torch.linear(x, self.down))
    scores = torch.softmax(torch.linear(state, self.gate.weight), -1)
    ids = torch.topk(scores + self.correction_bias, 1, -1)[1]
    weights = torch.gather(scores, 2, ids)
    skipped = ids == 6
    ids = ids.masked_fill(skipped, 0).view(-1, 1)
    weights = weights.masked_fill(skipped, 0.0).view(-1, 1)
    return x + self.experts(x.view(-1, x.size(-1)), ids, weights).view_as(x)
)") + kIndexParameters.code,
                                {{"correction_bias", random_tensor({kExperts + 1}, 41) * 0.2}});
    source.parameters.emplace_back("down", random_tensor({4, kHidden}, 42));
    source.modules = {{"gate", holder("Gate", random_tensor({kExperts + 1, 4}, 7))}};
    return source;
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor state = at::gelu(at::linear(hidden, tensor_at(own, "down")));
    const at::Tensor logits = at::linear(state, tensor_at(own, "gate.weight")), scores = logits.softmax(-1);
    const at::Tensor ids = (scores + tensor_at(own, "correction_bias")).argmax(-1, true);
    const at::Tensor skipped = ids == kExperts;
    return ExpectedRouting{logits, ids.masked_fill(skipped, 0), scores.gather(1, ids).masked_fill(skipped, 0.)};
  };
  return pattern;
}

RouterPattern h1() {
  RouterPattern pattern{.name = "H1", .scoring = "softmax", .top_k = 1};
  pattern.source = [] {
    return block(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    probabilities = torch.softmax(torch.linear(h, self.gate.weight), -1)
    gate, ids = torch.max(probabilities, -1)
    chosen = torch.one_hot(ids, 6)
    place = (torch.cumsum(chosen, 0) * chosen).sum([-1])
    keep = place <= 3
    out = torch.zeros_like(h)
    for e in range(6):
        rows = torch.nonzero((ids == e).__and__(keep)).squeeze(1)
        out.index_copy_(0, rows, torch.matmul(h[rows], self.expert_weights[e]))
    return x + (out * (gate * keep.to(gate.dtype)).unsqueeze(-1)).view_as(x)
)");
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor logits = logits_of(own, hidden);
    const auto [gate, ids] = logits.softmax(-1).max(-1);
    const at::Tensor kept = has_place(at::one_hot(ids, kExperts), at::zeros({1}, at::kLong));
    return ExpectedRouting{logits, ids.unsqueeze(-1), (gate * kept).unsqueeze(-1)};
  };
  return pattern;
}

RouterPattern h2() {
  RouterPattern pattern{.name = "H2", .scoring = "softmax"};
  pattern.source = [] {
    return block(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    gates = torch.softmax(torch.linear(h, self.gate.weight), 1)
    first = torch.argmax(gates, 1)
    mask1 = torch.one_hot(first, 6)
    second = torch.argmax(gates.masked_fill(mask1 > 0, float("-inf")), 1)
    mask2 = torch.one_hot(second, 6)
    place1 = torch.cumsum(mask1, 0) - 1
    place2 = torch.cumsum(mask2, 0) - 1 + mask1.sum([0], True)
    mask1 = mask1 * (place1 < 3).to(mask1.dtype)
    mask2 = mask2 * (place2 < 3).to(mask2.dtype)
    gate1 = (gates * mask1).sum([1])
    gate2 = (gates * mask2).sum([1])
    total = torch.clamp(gate1 + gate2, 1e-9)
    slot1 = torch.one_hot((place1 * mask1).sum([1]), 3).to(gates.dtype)
    slot2 = torch.one_hot((place2 * mask2).sum([1]), 3).to(gates.dtype)
    combine1 = torch.einsum("te,tc->tec", [(gate1 / total).unsqueeze(1) * mask1, slot1])
    combine2 = torch.einsum("te,tc->tec", [(gate2 / total).unsqueeze(1) * mask2, slot2])
    combine = combine1 + combine2
    dispatched = torch.einsum("tec,td->ecd", [(combine > 0).to(h.dtype), h])
    outputs = torch.bmm(dispatched, self.expert_weights)
    return x + torch.einsum("tec,ecd->td", [combine, outputs]).view_as(x)
)");
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor logits = logits_of(own, hidden), gates = logits.softmax(-1);
    const at::Tensor ids = std::get<1>(gates.topk(2, -1));
    const at::Tensor first = at::one_hot(ids.select(1, 0), kExperts), second = at::one_hot(ids.select(1, 1), kExperts);
    const at::Tensor kept =
        at::stack({has_place(first, at::zeros({1}, at::kLong)), has_place(second, first.sum(0, true))}, 1);
    const at::Tensor weights = gates.gather(1, ids) * kept;
    return ExpectedRouting{logits, ids, weights / weights.sum(-1, true).clamp_min(1e-9)};
  };
  return pattern;
}

RouterPattern h3() {
  RouterPattern pattern{.name = "H3", .scoring = "sparsemixer"};
  pattern.source = [] {
    return block(std::string(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    logits = torch.linear(h, self.gate.weight)
    top1, id1 = torch.max(logits, -1, True)
    far1 = ((top1 - logits) / torch.clamp(logits.abs(), min=top1)) > 0.2
    share1 = torch.softmax(logits.masked_fill(far1, float("-inf")), -1)
    weight1 = torch.gather(share1, -1, id1)
    rest = torch.scatter(logits, -1, id1, float("-inf"))
    top2, id2 = torch.max(rest, -1, True)
    far2 = ((top2 - logits) / torch.clamp(logits.abs(), min=top2)) > 0.2
    share2 = torch.softmax(rest.masked_fill(far2, float("-inf")), -1)
    weight2 = torch.gather(share2, -1, id2)
    ids = torch.cat([id1, id2], -1)
    weights = torch.cat([weight1, weight2], -1)
    return x + self.experts(h, ids, weights).view_as(x)
)") + kIndexParameters.code);
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor logits = logits_of(own, hidden);
    auto share = [&](const at::Tensor& top, const at::Tensor& among) {
      const at::Tensor far = (top - logits) / at::maximum(logits.abs(), top) > 0.2;
      return among.masked_fill(far, -kInfinity).softmax(-1);
    };
    const auto [values, ids] = logits.topk(2, -1);
    const at::Tensor first = ids.narrow(1, 0, 1), second = ids.narrow(1, 1, 1);
    const at::Tensor rest = logits.scatter(1, first, -kInfinity);
    return ExpectedRouting{logits, ids,
                           at::cat({share(values.narrow(1, 0, 1), logits).gather(1, first),
                                    share(values.narrow(1, 1, 1), rest).gather(1, second)},
                                   1)};
  };
  return pattern;
}

RouterPattern k1() {
  RouterPattern pattern{.name = "K1", .scoring = "softmax"};
  pattern.source = [] {
    return block(std::string(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    low = torch.linear(h, self.down)
    unit = low / torch.clamp(torch.linalg_vector_norm(low, 2, [-1], True), 1e-12)
    gate = self.gate.weight
    directions = gate / torch.clamp(torch.linalg_vector_norm(gate, 2, [-1], True), 1e-12)
    logits = torch.matmul(unit, directions.t()) * torch.exp(torch.clamp(self.temperature, max=4.6))
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-9)
    return x + self.experts(h, ids, weights).view_as(x)
)") + kDispatchTokens.code);
  };
  const auto source = pattern.source;
  pattern.source = [source] {
    ModuleSource cosine = source();
    cosine.parameters.emplace_back("down", random_tensor({4, kHidden}, 52));
    cosine.parameters.emplace_back("temperature", at::full({1}, 1.5));
    cosine.modules = {{"gate", holder("Gate", random_tensor({kExperts, 4}, 7))}};
    return cosine;
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    auto unit = [](const at::Tensor& rows) { return rows / rows.square().sum(-1, true).sqrt(); };
    const at::Tensor low = at::linear(hidden, tensor_at(own, "down"));
    const at::Tensor logits = at::linear(unit(low), unit(tensor_at(own, "gate.weight"))) * std::exp(1.5);
    const auto [weights, ids] = logits.softmax(-1).topk(kTopK, -1);
    return ExpectedRouting{logits, ids, weights / weights.sum(-1, true)};
  };
  return pattern;
}

// Experts in falling order until their probabilities reach 0.7: as many as each token needs.
RouterPattern s2() {
  RouterPattern pattern{.name = "S2", .scoring = "softmax", .top_k = std::nullopt};
  pattern.source = [] {
    return block(R"(
def forward(self, x: Tensor) -> Tensor:
    h = x.view(-1, x.size(-1))
    probabilities = torch.softmax(torch.linear(h, self.gate.weight), -1)
    values, order = torch.sort(probabilities, -1, True)
    keep = (torch.cumsum(values, -1) - values) < 0.7
    mask = torch.zeros_like(probabilities).scatter(1, order, keep.to(probabilities.dtype))
    weights = probabilities * mask
    weights = weights / weights.sum(-1, keepdim=True)
    out = torch.zeros_like(h)
    for e in range(6):
        out = out + torch.matmul(h, self.expert_weights[e]) * weights[:, e].unsqueeze(-1)
    return x + out.view_as(x)
)");
  };
  pattern.expected = [](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor logits = logits_of(own, hidden);
    const auto [values, order] = logits.softmax(-1).sort(-1, true);
    const at::Tensor keep = values.cumsum(-1) - values < 0.7;
    const at::Tensor weights = values * keep;
    return ExpectedRouting{logits, order.masked_fill(keep.logical_not(), -1), weights / weights.sum(-1, true)};
  };
  return pattern;
}

}  // namespace

void PrintTo(const RouterPattern& pattern, std::ostream* stream) {
  *stream << pattern.name;
}

std::vector<RouterPattern> block_patterns() {
  std::vector<RouterPattern> patterns = {a2c(), b2(), c2(), d4(), g2(), h1(), h2(), h3(), k1(), s2()};
  for (RouterPattern& pattern : patterns) {
    if (!pattern.hidden) pattern.hidden = [](const at::Tensor& input) { return input.view({-1, kHidden}); };
  }
  return patterns;
}

at::Tensor tensor_at(const jit::Module& module, const std::string& path) {
  const size_t dot = path.find('.');
  const c10::IValue value = module.attr(path.substr(0, dot));
  return dot == std::string::npos ? value.toTensor() : tensor_at(value.toModule(), path.substr(dot + 1));
}

RouterPattern with_combine(const RoutePattern& pattern, const Combine& combine) {
  RouterPattern result{.name = pattern.name + "_" + combine.name, .scoring = pattern.scoring, .top_k = pattern.top_k};
  result.source = [pattern, combine] {
    ModuleSource source = block_source(pattern.route, combine);
    source.buffers = pattern.buffers;
    return source;
  };
  result.hidden = [](const at::Tensor& input) { return at::layer_norm(input, {kHidden}).view({-1, kHidden}); };
  result.expected = [pattern](const jit::Module& own, const at::Tensor& hidden) {
    const at::Tensor buffer = pattern.buffers.empty() ? at::Tensor() : tensor_at(own, pattern.buffers[0].first);
    return pattern.expected(hidden, tensor_at(own, "gate.weight"), buffer);
  };
  return result;
}

std::vector<RouterPattern> all_patterns() {
  std::vector<RouterPattern> all = block_patterns();
  for (const auto& patterns : {softmax_patterns(), sigmoid_patterns()}) {
    for (const RoutePattern& pattern : patterns) {
      for (const Combine& combine : {kMaskEachExpert, kIndexParameters, kDispatchTokens, kSortTokensByExpert}) {
        all.push_back(with_combine(pattern, combine));
      }
    }
  }
  return all;
}

}  // namespace moetap::hooks::testing
