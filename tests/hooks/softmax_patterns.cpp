#include <ATen/ATen.h>

#include "router_patterns.h"

namespace moetap::hooks::testing {

namespace {

ExpectedRouting largest(const at::Tensor& logits, const at::Tensor& from) {
  auto [weights, ids] = from.topk(kTopK, -1);
  return {logits, ids, weights};
}

ExpectedRouting renormalised(ExpectedRouting routing) {
  routing.weights = routing.weights / routing.weights.sum(-1, true);
  return routing;
}

}  // namespace

std::vector<RoutePattern> softmax_patterns() {
  std::vector<RoutePattern> patterns;
  patterns.push_back({"A1",
                      "softmax",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    probabilities = torch.softmax(torch.linear(h, self.gate.weight), -1)
    weights, ids = torch.topk(probabilities, 2, -1)
    return ids, weights
)",
                      {},
                      [](const auto& h, const auto& gate, const auto&) {
                        const at::Tensor logits = at::linear(h, gate);
                        return largest(logits, logits.softmax(-1));
                      }});
  patterns.push_back({"A2",
                      "softmax",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    logits = torch.linear(h, self.gate.weight)
    probabilities = torch.softmax(logits.to(float32), -1)
    weights, ids = torch.topk(probabilities, 2, -1)
    weights /= weights.sum(-1, keepdim=True)
    return ids, weights.to(h.dtype)
)",
                      {},
                      [](const auto& h, const auto& gate, const auto&) {
                        const at::Tensor logits = at::linear(h, gate);
                        return renormalised(largest(logits, logits.softmax(-1)));
                      }});
  patterns.push_back({"A3",
                      "softmax",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    probabilities = torch.softmax(torch.linear(h, self.gate.weight), -1)
    weights, ids = torch.topk(probabilities, 2, -1)
    weights = weights / torch.linalg_vector_norm(weights, 2, [-1], True)
    return ids, weights
)",
                      {},
                      [](const auto& h, const auto& gate, const auto&) {
                        const at::Tensor logits = at::linear(h, gate);
                        ExpectedRouting routing = largest(logits, logits.softmax(-1));
                        routing.weights = routing.weights / routing.weights.square().sum(-1, true).sqrt();
                        return routing;
                      }});
  patterns.push_back({"A4",
                      "softmax",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    normal = h * torch.rsqrt(torch.pow(h, 2).mean(-1, keepdim=True) + 1e-6)
    scaled = normal * self.input_scale * 0.5
    probabilities = torch.softmax(torch.linear(scaled, self.gate.weight), -1)
    weights, ids = torch.topk(probabilities, 2, -1)
    weights /= weights.sum(-1, keepdim=True)
    weights = weights * self.expert_scale[ids]
    return ids, weights
)",
                      {{"expert_scale", random_tensor({kExperts}, 11)}, {"input_scale", random_tensor({kHidden}, 12)}},
                      [](const auto& h, const auto& gate, const auto& expert_scale) {
                        const at::Tensor normal = h * (h.square().mean(-1, true) + 1e-6).rsqrt();
                        const at::Tensor logits = at::linear(normal * random_tensor({kHidden}, 12) * 0.5, gate);
                        ExpectedRouting routing = renormalised(largest(logits, logits.softmax(-1)));
                        routing.weights = routing.weights *
                                          expert_scale.index_select(0, routing.ids.reshape(-1)).view_as(routing.ids);
                        return routing;
                      }});
  patterns.push_back({"B",
                      "softmax_topk",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    logits = torch.linear(h, self.gate.weight, self.gate_bias)
    values, ids = torch.topk(logits, 2, -1)
    return ids, torch.softmax(values, -1).type_as(h)
)",
                      {{"gate_bias", random_tensor({kExperts}, 13)}},
                      [](const auto& h, const auto& gate, const auto& bias) {
                        const at::Tensor logits = at::linear(h, gate, bias);
                        ExpectedRouting routing = largest(logits, logits);
                        routing.weights = routing.weights.softmax(-1);
                        return routing;
                      }});
  // The values of the last pick are the weights.
  patterns.push_back({"F",
                      "softmax",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1, dtype=float32)
    tokens = h.size(0)
    best, best_at = torch.max(scores.view(tokens, 3, 2), -1)
    groups = torch.topk(best, 2, -1, True, False)[1]
    group_mask = torch.zeros_like(best)
    group_mask.scatter_(1, groups, 1.0)
    mask = group_mask.unsqueeze(-1).expand([tokens, 3, 2]).reshape([tokens, -1]).to(boolean)
    limited = scores.masked_fill(torch.bitwise_not(mask), 0.0)
    weights, ids = torch.topk(limited, 2, -1, True, False)
    return ids, weights * 1.5
)",
                      {},
                      [](const auto& h, const auto& gate, const auto&) {
                        const at::Tensor logits = at::linear(h, gate);
                        const at::Tensor grouped = logits.softmax(-1).view({-1, 3, 2});
                        // Of three groups, the one with the smallest maximum is left out.
                        const at::Tensor worst = grouped.amax(-1).argmin(-1);
                        const at::Tensor limited =
                            grouped.masked_fill(at::one_hot(worst, 3).to(at::kBool).unsqueeze(-1), 0.).flatten(1);
                        ExpectedRouting routing = largest(logits, limited);
                        routing.weights = routing.weights * 1.5;
                        return routing;
                      }});
  patterns.push_back({"G",
                      "softmax_bias",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    ids = torch.topk(scores + self.correction_bias, 2, -1)[1]
    weights = torch.gather(scores, -1, ids)
    weights = weights / torch.clamp(weights.sum(-1, keepdim=True), 1e-12)
    return ids, weights
)",
                      {{"correction_bias", random_tensor({kExperts}, 14)}},
                      [](const auto& h, const auto& gate, const auto& bias) {
                        const at::Tensor logits = at::linear(h, gate), scores = logits.softmax(-1);
                        const at::Tensor ids = std::get<1>((scores + bias).topk(kTopK, -1));
                        return renormalised({logits, ids, scores.gather(-1, ids)});
                      }});
  patterns.push_back({"S_sort",
                      "softmax",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    scores = torch.log_softmax(torch.linear(h, self.gate.weight), -1).exp()
    values, order = torch.sort(scores, -1, True)
    weights = values[:, :2]
    return order[:, :2], weights / weights.sum(-1, keepdim=True)
)",
                      {},
                      [](const auto& h, const auto& gate, const auto&) {
                        const at::Tensor logits = at::linear(h, gate);
                        return renormalised(largest(logits, logits.softmax(-1)));
                      }});
  patterns.push_back({"S_argsort",
                      "softmax",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    scores = torch.softmax(torch.linear(h, self.gate.weight), -1)
    ids = torch.argsort(scores, -1, True)[:, :2]
    weights = torch.gather(scores, 1, ids)
    return ids, weights / weights.sum(-1, keepdim=True)
)",
                      {},
                      [](const auto& h, const auto& gate, const auto&) {
                        const at::Tensor logits = at::linear(h, gate);
                        return renormalised(largest(logits, logits.softmax(-1)));
                      }});
  return patterns;
}

}  // namespace moetap::hooks::testing
