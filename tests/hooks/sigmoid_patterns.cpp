#include <ATen/ATen.h>

#include <limits>

#include "router_patterns.h"

namespace moetap::hooks::testing {

namespace {

// Ids are picked from biased scores. Weights are the scores without bias, renormalised and scaled.
ExpectedRouting picked_from_biased(const at::Tensor& logits, const at::Tensor& scores, const at::Tensor& biased,
                                   double scale) {
  const at::Tensor ids = std::get<1>(biased.topk(kTopK, -1));
  const at::Tensor weights = scores.gather(-1, ids);
  return {logits, ids, weights / (weights.sum(-1, true) + 1e-20) * scale};
}

}  // namespace

std::vector<RoutePattern> sigmoid_patterns() {
  const std::vector<std::pair<std::string, at::Tensor>> bias = {{"correction_bias", random_tensor({kExperts}, 21)}};
  std::vector<RoutePattern> patterns;
  patterns.push_back({"C", "sigmoid_topk", R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    logits = torch.linear(h, self.gate.weight)
    ids = torch.topk(logits + self.correction_bias, 2, -1)[1]
    weights = torch.sigmoid(torch.gather(logits, -1, ids))
    return ids, weights / weights.sum(-1, keepdim=True)
)",
                      bias, [](const auto& h, const auto& gate, const auto& correction_bias) {
                        const at::Tensor logits = at::linear(h, gate);
                        return picked_from_biased(logits, logits.sigmoid(), logits + correction_bias, 1.);
                      }});
  patterns.push_back({"C_values",
                      "sigmoid_topk",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    values, ids = torch.topk(torch.linear(h, self.gate.weight), 2, -1)
    return ids, torch.sigmoid(values)
)",
                      {},
                      [](const auto& h, const auto& gate, const auto&) {
                        const at::Tensor logits = at::linear(h, gate);
                        const auto [values, ids] = logits.topk(kTopK, -1);
                        return ExpectedRouting{logits, ids, values.sigmoid()};
                      }});
  patterns.push_back({"D0",
                      "sigmoid",
                      R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    scores = torch.sigmoid(torch.matmul(h, self.gate.weight.t()))
    weights, ids = torch.topk(scores, 2, -1)
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return ids, weights
)",
                      {},
                      [](const auto& h, const auto& gate, const auto&) {
                        const at::Tensor logits = at::matmul(h, gate.t());
                        return picked_from_biased(logits, logits.sigmoid(), logits.sigmoid(), 1.);
                      }});
  patterns.push_back({"D", "sigmoid_bias", R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    scores = torch.sigmoid(torch.linear(h, self.gate.weight).to(float32))
    ids = torch.topk(scores + self.correction_bias, 2, -1, True, False)[1]
    weights = torch.gather(scores, 1, ids)
    weights /= weights.sum(-1, keepdim=True) + 1e-20
    return ids, weights * 2.5
)",
                      bias, [](const auto& h, const auto& gate, const auto& correction_bias) {
                        const at::Tensor logits = at::linear(h, gate);
                        return picked_from_biased(logits, logits.sigmoid(), logits.sigmoid() + correction_bias, 2.5);
                      }});
  patterns.push_back({"D2_soft_cap", "sigmoid_bias", R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    logits = torch.tanh(torch.linear(h, self.gate.weight).to(float32) / 3.0) * 3.0
    scores = torch.sigmoid(logits)
    ids = torch.topk(scores + self.correction_bias, 2, -1)[1]
    weights = torch.gather(scores, 1, ids)
    return ids, weights / (weights.sum(-1, keepdim=True) + 1e-20)
)",
                      bias, [](const auto& h, const auto& gate, const auto& correction_bias) {
                        const at::Tensor logits = (at::linear(h, gate) / 3.).tanh() * 3.;
                        return picked_from_biased(logits, logits.sigmoid(), logits.sigmoid() + correction_bias, 1.);
                      }});
  patterns.push_back({"D2_multiplier", "sigmoid_bias", R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    scores = torch.sigmoid(torch.linear(h, self.gate.weight) * 0.125)
    ids = torch.topk(scores + self.correction_bias, 2, -1)[1]
    weights = torch.gather(scores, 1, ids)
    return ids, weights / (weights.sum(-1, keepdim=True) + 1e-20)
)",
                      bias, [](const auto& h, const auto& gate, const auto& correction_bias) {
                        const at::Tensor logits = at::linear(h, gate) * 0.125;
                        return picked_from_biased(logits, logits.sigmoid(), logits.sigmoid() + correction_bias, 1.);
                      }});
  patterns.push_back({"D3", "sqrtsoftplus_bias", R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    scores = torch.sqrt(torch.softplus(torch.linear(h, self.gate.weight)))
    ids = torch.topk(scores + self.correction_bias, 2, -1)[1]
    weights = torch.gather(scores, 1, ids)
    return ids, weights / (weights.sum(-1, keepdim=True) + 1e-20) * 1.5
)",
                      bias, [](const auto& h, const auto& gate, const auto& correction_bias) {
                        const at::Tensor logits = at::linear(h, gate), scores = at::softplus(logits).sqrt();
                        return picked_from_biased(logits, scores, scores + correction_bias, 1.5);
                      }});
  patterns.push_back({"E", "sigmoid_bias", R"(
def route(self, h: Tensor) -> Tuple[Tensor, Tensor]:
    scores = torch.sigmoid(torch.linear(h.to(float32), self.gate.weight.to(float32)))
    biased = scores.view(-1, 6) + self.correction_bias.unsqueeze(0)
    group_scores = torch.topk(biased.view(-1, 2, 3), 2, -1)[0].sum(-1)
    groups = torch.topk(group_scores, 1, -1, True, False)[1]
    group_mask = torch.zeros_like(group_scores)
    group_mask.scatter_(1, groups, 1.0)
    mask = group_mask.unsqueeze(-1).expand([-1, 2, 3]).reshape([-1, 6]).to(boolean)
    limited = biased.masked_fill(torch.bitwise_not(mask), float("-inf"))
    ids = torch.topk(limited, 2, -1, True, False)[1]
    weights = torch.gather(scores, 1, ids)
    weights /= weights.sum(-1, keepdim=True) + 1e-20
    return ids, weights * 2.5
)",
                      bias, [](const auto& h, const auto& gate, const auto& correction_bias) {
                        const at::Tensor logits = at::linear(h, gate), scores = logits.sigmoid();
                        const at::Tensor grouped = (scores + correction_bias).view({-1, 2, 3});
                        // Of two groups, the one whose two best scores have the smaller sum is left out.
                        const at::Tensor worse = (grouped.sum(-1) - grouped.amin(-1)).argmin(-1);
                        const at::Tensor out = at::one_hot(worse, 2).to(at::kBool).unsqueeze(-1);
                        const at::Tensor limited =
                            grouped.masked_fill(out, -std::numeric_limits<double>::infinity()).flatten(1);
                        return picked_from_biased(logits, scores, limited, 2.5);
                      }});
  return patterns;
}

}  // namespace moetap::hooks::testing
